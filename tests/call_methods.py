"""Calls the API with the gRPC library of PyPI and no generated code: whatever is known of it comes by reflection. The argument
is the address of a server. Prints the services that it lists.
"""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
pool = DescriptorPool(database)
services = sorted(database.get_services())


def call(service, called, /, **fields):
    method = pool.FindServiceByName(f"hookfleet.v1.{service}").methods_by_name[called]
    request = GetMessageClass(method.input_type)(**fields)
    answer = GetMessageClass(method.output_type)
    stub = channel.unary_unary(
        f"/hookfleet.v1.{service}/{called}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )
    return stub(request)


def message(name):
    return GetMessageClass(pool.FindMessageTypeByName(name))


tenant = call("TenantService", "CreateTenant", tenant_id="acme", tenant={"display_name": "größer"})
assert (tenant.name, tenant.display_name) == ("tenants/acme", "größer"), tenant
(listed,) = call("TenantService", "ListTenants").tenants
assert listed == tenant, listed
hook = {"callback_url": "http://localhost:9000/", "event_types": ["orders"], "timeout": {"seconds": 2, "nanos": 500_000_000}}
made = call("SubscriptionService", "CreateSubscription", parent=tenant.name, subscription_id="hook", subscription=hook)
assert made.signing_secret.startswith("whsec_") and made.timeout.nanos == 500_000_000, made

for fields, code, reason in [
    ({"name": "tenants/nobody"}, grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND"),
    ({"name": "nobody"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ({"name": "tenants/acme", "etag": '"0"'}, grpc.StatusCode.ABORTED, "ETAG_MISMATCH"),
]:
    try:
        call("TenantService", "DeleteTenant", **fields)
        raise AssertionError(fields)
    except grpc.RpcError as error:
        assert error.code() == code, error
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        infos = [it for it in message("google.rpc.Status").FromString(details).details if it.type_url.endswith("ErrorInfo")]
        info = message("google.rpc.ErrorInfo").FromString(infos[0].value)
        assert (info.reason, info.domain, len(infos)) == (reason, "hookfleet.dev", 1), info

print("\n".join(services))
