"""One call of the Kubernetes Container Runtime Interface, as the kubelet makes it: crictl, which Debian lacks.

usage: cri_call.py SOCKET METHOD REQUEST, the request and what is answered in JSON. In a process of its own, as gRPC
leaves threads behind, and tests fork.
Source: the API's own protocol, `runtime.v1` of k8s.io/cri-api.
"""

from __future__ import annotations

import sys

import grpc
from cri_api.v1 import api_pb2_grpc
from cri_api.v1.api_pb2 import DESCRIPTOR
from google.protobuf import json_format, message_factory

#: Seconds for one call.
_TIMEOUT = 50.0


def main(socket: str, method: str, request: str) -> int:
    service = DESCRIPTOR.services_by_name["RuntimeService"]
    message = message_factory.GetMessageClass(service.methods_by_name[method].input_type)()
    json_format.Parse(request, message)
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        try:
            stub = api_pb2_grpc.RuntimeServiceStub(channel)  # type: ignore[no-untyped-call]
            answer = getattr(stub, method)(message, timeout=_TIMEOUT)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    print(json_format.MessageToJson(answer, always_print_fields_with_no_presence=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
