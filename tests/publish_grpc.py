"""Publishes through several agents as proto/README.md tells, with the gRPC library of PyPI and no generated code, until its input
ends: an event at a time, whose id it prints once it is acknowledged. The arguments are the configuration of the client and the
target.
"""

import sys
import threading

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

config, target = sys.argv[1:]
options = [
    ("grpc.service_config", open(config).read()),
    # Addresses have no common name; their list is not one.
    ("grpc.default_authority", "agents"),
]
channel = grpc.insecure_channel(target, options=options)
pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
method = pool.FindServiceByName("hookfleet.v1.PublisherService").methods_by_name["Publish"]
Request = GetMessageClass(method.input_type)
publish = channel.unary_unary(
    "/hookfleet.v1.PublisherService/Publish",
    request_serializer=Request.SerializeToString,
    response_deserializer=GetMessageClass(method.output_type).FromString,
)

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
number = 0
while not over.is_set():
    request = Request(parent="tenants/acme")
    request.events.add(id=str(number), source="urn:shop", spec_version="1.0", type="orders.created", text_data="{}")
    (result,) = publish(request).results
    assert result.WhichOneof("result") == "receipt", result
    print(number, flush=True)
    number += 1
