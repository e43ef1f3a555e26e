"""Judges files of deploy/ with what shares no code with us.

    deploy_judge.py json FILE    YAML documents as one JSON list
    deploy_judge.py envoy FILE   exits 0 if Envoy's own API has every field that FILE sets
"""

import importlib
import json
import sys

import yaml


def types(node):
    """Every type that an Any says that it is of."""
    if isinstance(node, dict):
        if "@type" in node:
            yield node["@type"]
        node = list(node.values())
    if isinstance(node, list):
        for it in node:
            yield from types(it)


def envoy(document):
    for name in set(types(document)):
        package = name.split("/")[1].rsplit(".", 1)[0]
        importlib.import_module(f"envoy_data_plane.{package}")
    bootstrap = importlib.import_module("envoy_data_plane.envoy.config.bootstrap.v3")
    bootstrap.Bootstrap.from_dict(document)


what, path = sys.argv[1:]
with open(path) as file:
    documents = list(yaml.safe_load_all(file))
if what == "envoy":
    envoy(documents[0])
else:
    json.dump(documents, sys.stdout)
