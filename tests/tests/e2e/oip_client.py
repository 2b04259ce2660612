"""What a user of tritonclient does, against a hedge-agent at argv[1] that serves `digits`."""

import sys

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

PARAMETERS = {"hedge.source", "hedge.status", "hedge.reason", "hedge.confidence", "hedge.model", "hedge.device"}


def main(url: str) -> None:
    client = InferenceServerClient(url)
    lists_and_checks(client)
    for batch in (1, 32):
        infers(client, batch)
    asks_for_routing(client)
    is_told_what_is_wrong(client)


def lists_and_checks(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert not client.is_model_ready("no-such-model")
    server = client.get_server_metadata()
    assert server["name"] == "hedge-agent", server
    assert "binary_tensor_data" in server["extensions"], server
    index = client.get_model_repository_index()
    assert [(model["name"], model["state"]) for model in index] == [("digits", "READY")], index
    model = client.get_model_metadata("digits")
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 16, 16]}], model
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}], model
    config = client.get_model_config("digits")
    assert config["max_batch_size"] >= 1, config


def infers(client: InferenceServerClient, batch: int) -> None:
    images = np.random.default_rng(batch).integers(0, 256, (batch, 1, 16, 16), dtype=np.uint8)
    answers = []
    for binary in (False, True):
        image = InferInput("image", list(images.shape), "UINT8")
        image.set_data_from_numpy(images, binary_data=binary)
        outputs = [InferRequestedOutput("logits", binary_data=binary)]
        result = client.infer("digits", [image], outputs=outputs, request_id=f"request-{batch}-{binary}")
        response = result.get_response()
        assert response["id"] == f"request-{batch}-{binary}", response
        arrived(response["parameters"])
        logits = result.as_numpy("logits")
        assert logits.shape == (batch, 10) and logits.dtype == np.float32, (logits.shape, logits.dtype)
        answers.append(logits)
    # The second came from the cache or was computed anew; either way it is the same model's answer.
    np.testing.assert_allclose(answers[0], answers[1], rtol=0, atol=1e-5)
    # Without outputs named, the client asks for all of them.
    result = client.infer("digits", [image])
    assert result.as_numpy("logits").shape == (batch, 10)
    statistics = client.get_inference_statistics("digits")["model_stats"][0]
    assert statistics["inference_count"] >= batch, statistics


def arrived(parameters: dict) -> None:
    assert PARAMETERS <= set(parameters), parameters
    assert parameters["hedge.source"] in ("edge", "cache"), parameters
    assert parameters["hedge.status"] == "uncertified", parameters
    assert 0 <= parameters["hedge.confidence"] <= 1, parameters
    assert parameters["hedge.model"].startswith("sha256:"), parameters


def asks_for_routing(client: InferenceServerClient) -> None:
    image = InferInput("image", [2, 1, 16, 16], "UINT8")
    image.set_data_from_numpy(np.zeros((2, 1, 16, 16), np.uint8))
    outputs = [InferRequestedOutput(name) for name in ("logits", "hedge_source", "hedge_status")]
    parameters = {"hedge.place": "edge", "hedge.deadline_ms": 5000}
    result = client.infer("digits", [image], outputs=outputs, parameters=parameters)
    assert set(result.as_numpy("hedge_source")) <= {b"edge", b"cache"}, result.as_numpy("hedge_source")
    assert list(result.as_numpy("hedge_status")) == [b"uncertified"] * 2, result.as_numpy("hedge_status")


def is_told_what_is_wrong(client: InferenceServerClient) -> None:
    image = InferInput("image", [1, 1, 8, 8], "UINT8")
    image.set_data_from_numpy(np.zeros((1, 1, 8, 8), np.uint8))
    try:
        client.infer("digits", [image])
    except InferenceServerException as error:
        assert error.status() == "400" and "image" in error.message(), error
    else:
        raise AssertionError("a wrong shape was accepted")


if __name__ == "__main__":
    main(sys.argv[1])
