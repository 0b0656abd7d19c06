"""What any gRPC client can find out: reflection and health."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from conftest import ROWS


def test_reflection_is_enough_to_ask(address):
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(database.get_services())
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelInfer")
        request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        values = [value for row in ROWS for value in row]
        tensor = {"name": "features", "datatype": "FP32", "shape": [2, 4], "contents": {"fp32_contents": values}}
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        answered = call(request(model_name="iris", inputs=[tensor]), timeout=30)
        assert answered.raw_output_contents[0] == b"".join(label.to_bytes(8, "little") for label in [0, 2])


def test_health_is_checked_and_watched(address):
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == serving
        watch = health.Watch(health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService"), timeout=30)
        assert next(watch).status == serving
        watch.cancel()
