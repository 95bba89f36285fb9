"""One conversation that a server cannot answer is recorded with its reason, and the others are answered."""

import json
import logging
import subprocess
import sys
import time
from typing import Any

import pytest

from divalign.data.examples import Conversation, user_says
from divalign.lm.chat_completions import NotACompletionError, UnusableReplyError, read_completion
from divalign.lm.responses import Response
from divalign.lm.server import Server, generate_on_server, generate_responses_on_server, served_model
from tests.lm import fake_server
from tests.lm.fake_server import Fake, Reply, answer, completion, patient, raw, send, status

fake = fake_server.fake
CONVERSATIONS = [user_says(f"question {number}") for number in range(4)]


def error(message: str, **fields: Any) -> bytes:
    return json.dumps({"error": {"message": message, **fields}}).encode()


AZURE = error(
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    code="content_filter",
    innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
)
BLOCKED: dict[str, list[Reply]] = {
    "Azure": [status(400, AZURE)],
    "OpenRouter": [status(403, error("Input was flagged by moderation", metadata={"reasons": ["violence"]}))],
    "OpenAI": [status(400, error("Invalid prompt: your prompt was flagged as violating our usage policy."))],
    "legal reasons": [status(451, b"")],
    "no choices": [raw(b'{"choices": [], "prompt_feedback": {"block_reason": "SAFETY"}}')] * 9,
    "an error in a 200": [raw(error("Provider returned error: content_filter", code=400))],
    "a filtered response": [
        raw(b'{"choices": [{"finish_reason": "content_filter", "message": {"content": "To be"}}]}'),
    ],
}
TOO_LONG: dict[str, Reply] = {
    "OpenAI": status(400, error("This model's maximum context length is 512 tokens.", code="context_length_exceeded")),
    "vLLM": status(400, error("'max_tokens' is too large: 600. This model's maximum context length is 512 tokens")),
    "llama.cpp": status(400, error("the request exceeds the available context size", type="exceed_context_size_error")),
    "TGI": status(422, b'{"error": "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 3000"}'),
    "Anthropic": status(400, error("prompt is too long: 210000 tokens > 200000 maximum")),
    "Gemini": status(400, error("The input token count (9000) exceeds the maximum number of tokens allowed (8192).")),
    "nginx": status(413, b"<html>Request Entity Too Large</html>"),
    "tokens per minute": status(429, error("Request too large for m on tokens per min (TPM): Limit 6000")),
}


def respond(fake: Fake, replies: list[Reply]) -> list[Response]:
    fake.script = {"question 1": replies}
    return generate_responses_on_server(patient(fake), CONVERSATIONS)


@pytest.mark.parametrize("replies", BLOCKED.values(), ids=BLOCKED)
def test_a_blocked_prompt_is_recorded_and_the_others_are_answered(fake: Fake, replies: list[Reply]) -> None:
    responses = respond(fake, list(replies))
    assert [response.finish_reason for response in responses] == ["stop", "blocked", "stop", "stop"]
    assert responses[1].error
    assert not responses[1].answered
    assert [responses[place].text for place in (0, 2, 3)] == [f"answer to question {place}" for place in (0, 2, 3)]


@pytest.mark.parametrize("reply", TOO_LONG.values(), ids=TOO_LONG)
def test_a_prompt_over_the_context_is_recorded_with_the_servers_reason(fake: Fake, reply: Reply) -> None:
    responses = respond(fake, [reply])
    assert [response.finish_reason for response in responses] == ["stop", "too_long", "stop", "stop"]
    assert "status" in responses[1].error
    assert len(fake.asked) == 4


@pytest.mark.parametrize("text", ["a \ud83d b", "\udfff"])
def test_a_lone_surrogate_is_recorded_and_never_sent(fake: Fake, text: str) -> None:
    conversations = [user_says("question 0"), user_says(text), user_says("question 2", prefill="Sure\udc00")]
    first, second, third = generate_responses_on_server(patient(fake), conversations)
    assert (first.finish_reason, second.finish_reason, third.finish_reason) == ("stop", "unreadable", "unreadable")
    assert "lone surrogate (U+D" in second.error
    assert "character 5 of the prefill" in third.error
    assert len(fake.asked) == 1


def test_a_rejection_of_one_prompt_for_an_unknown_reason_is_recorded(fake: Fake) -> None:
    slow: Reply = lambda handler, body: (time.sleep(0.1), answer()(handler, body))[1]  # noqa: E731
    strange = status(400, error("template error: roles must alternate"))
    fake.script = {"question 0": [strange], "question 1": [strange], "question 2": [slow]}
    responses = generate_responses_on_server(patient(fake), [*CONVERSATIONS, *[user_says("question 2")] * 6])
    assert [response.finish_reason for response in responses[:3]] == ["unreadable", "unreadable", "stop"]
    assert "roles must alternate" in responses[0].error
    assert all(response.answered for response in responses[2:])


def test_texts_alone_raise_for_a_blocked_prompt_after_the_others_are_reported(fake: Fake) -> None:
    fake.script = {"question 1": [status(400, AZURE)]}
    reported: dict[int, str] = {}
    with pytest.raises(ValueError, match=r"conversation 1: no response \(blocked\): status 400.*content_filter"):
        generate_on_server(patient(fake), CONVERSATIONS, on_response=reported.__setitem__)
    assert reported.keys() == {0, 2, 3}


def choice(finish_reason: Any = "stop", usage: Any = None, **message: Any) -> Reply:
    return raw(json.dumps({"choices": [{"finish_reason": finish_reason, "message": message}], "usage": usage}).encode())


def one(fake: Fake, reply: Reply, **options: Any) -> Response:
    fake.script = {"question 0": [reply] * 9}
    return generate_responses_on_server(patient(fake, **options), CONVERSATIONS[:1])[0]


@pytest.mark.parametrize(
    ("reply", "finish_reason"),
    [
        (choice("stop", content="x"), "stop"),
        (choice("length", content="x"), "length"),
        (choice("MAX_TOKENS", content="x"), "length"),
        (choice(None, content="x", usage={"completion_tokens": 64}), "length"),
        (choice(None, content="x", usage={"completion_tokens": 3}), "stop"),
        (choice("SAFETY", content=None), "blocked"),
    ],
)
def test_how_a_response_ended_is_kept(fake: Fake, reply: Reply, finish_reason: str) -> None:
    assert one(fake, reply).finish_reason == finish_reason


@pytest.mark.parametrize(
    "message",
    [
        {"content": "So: no.", "reasoning_content": "They ask."},
        {"content": "So: no.", "reasoning": "They ask."},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "They ask."}]}, "So: no."]},
        {
            "content": [{"type": "text", "text": "So: "}, {"type": "output_text", "text": "no."}],
            "reasoning_content": "They ask.",
        },
    ],
)
def test_text_and_reasoning_are_read_from_every_shape(fake: Fake, message: dict[str, Any]) -> None:
    assert one(fake, choice(**message)) == Response("So: no.", "stop", "They ask.")


@pytest.mark.parametrize(
    ("reply", "response"),
    [
        (b'{"choices": [{"message": null, "finish_reason": "stop"}]}', Response("", "stop")),
        (
            b'{"choices": [{"message": {"content": [{"type": "thinking", "thinking": null}, "no."]}}]}',
            Response("no.", "stop"),
        ),
    ],
)
def test_null_where_text_is_expected_is_an_empty_one(reply: bytes, response: Response) -> None:
    assert read_completion(reply) == response
    with pytest.raises(UnusableReplyError):
        read_completion(b'{"choices": null}')


@pytest.mark.parametrize("message", ["text", ["text"], 7])
def test_a_message_of_another_kind_is_no_completion(message: Any) -> None:
    with pytest.raises(NotACompletionError, match="a completion without a message"):
        read_completion(json.dumps({"choices": [{"message": message}]}).encode())


@pytest.mark.parametrize("content", [{"text": "x"}, 7, [{"type": "image_url"}], [{"type": "text"}]])
def test_content_of_an_unknown_shape_is_recorded_as_unreadable(fake: Fake, content: Any) -> None:
    response = one(fake, choice(content=content))
    assert response.finish_reason == "unreadable"
    assert "expected text" in response.error


def test_a_thought_cut_by_the_limit_is_reasoning_without_text(fake: Fake) -> None:
    response = one(fake, choice("length", content=None, reasoning_content="Let me"))
    assert response == Response("", "length", "Let me")
    assert response.answered


def test_a_lone_surrogate_in_a_reply_can_be_written_to_a_file(fake: Fake) -> None:
    assert one(fake, raw(b'{"choices": [{"message": {"content": "a\\ud83d"}}]}')).text == "a\ufffd"


def refuses(name: str, sentence: str, code: int = 400) -> Reply:
    def reply(handler: Any, body: dict[str, Any]) -> None:
        if name in body:
            send(handler, sentence.encode(), code)
        else:
            answer()(handler, body)

    return reply


OPENAI = error(
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    param="max_tokens",
    code="unsupported_parameter",
).decode()
MISTRAL = '{"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}'


def test_a_server_that_refuses_max_tokens_gets_max_completion_tokens(fake: Fake) -> None:
    fake.script = {"all": [refuses("max_tokens", OPENAI)] * 20}
    responses = generate_responses_on_server(patient(fake, concurrency=1), CONVERSATIONS, max_new_tokens=9)
    assert all(response == Response(f"answer to question {n}") for n, response in enumerate(responses))
    assert len(fake.asked) == 5  # one request result out
    assert fake.asked[-1]["max_completion_tokens"] == 9
    assert "max_tokens" not in fake.asked[-1]


def test_a_server_that_refuses_a_seed_gets_none_and_the_response_records_it(fake: Fake) -> None:
    fake.script = {"all": [refuses("seed", MISTRAL, 422)] * 20}
    responses = generate_responses_on_server(patient(fake), CONVERSATIONS, seeds=[1, 2, 3, 4])
    assert {response.dropped for response in responses} == {("seed",)}
    assert Response.from_record(responses[0].to_record()) == responses[0]


def test_a_server_that_refuses_both_is_served(fake: Fake) -> None:
    def reply(handler: Any, body: dict[str, Any]) -> None:
        refuses("seed", MISTRAL)(handler, body) if "seed" in body else refuses("max_tokens", OPENAI)(handler, body)

    fake.script = {"all": [reply] * 20}
    assert [response.text for response in generate_responses_on_server(patient(fake), CONVERSATIONS)] == [
        f"answer to question {n}" for n in range(4)
    ]


def test_a_server_that_refuses_the_temperature_is_not_sampled_behind_ones_back(fake: Fake) -> None:
    sentence = error("Unsupported value: 'temperature' does not support 0.0 with this model.").decode()
    fake.script = {"all": [refuses("temperature", sentence)] * 20}
    with pytest.raises(ValueError, match="temperature to None to use its own, which is not greedy"):
        generate_responses_on_server(patient(fake), CONVERSATIONS)
    assert len(generate_responses_on_server(patient(fake, temperature=None), CONVERSATIONS)) == 4


@pytest.mark.parametrize(
    ("code", "content"),
    [
        (429, error("You exceeded your current quota", code="insufficient_quota", type="insufficient_quota")),
        (402, error("Insufficient Balance")),
        (400, error("Your credit balance is too low to access the API")),
    ],
)
def test_a_used_up_quota_fails_at_once(fake: Fake, code: int, content: bytes) -> None:
    fake.script = {"all": [status(code, content, Retry_After="60")] * 9}
    with pytest.raises(ValueError, match="quota is used up"):
        generate_responses_on_server(patient(fake, concurrency=1), CONVERSATIONS)
    assert len(fake.asked) == 1


def test_the_system_prompt_goes_before_the_conversations_own_in_one_turn(fake: Fake) -> None:
    own = Conversation(({"role": "system", "content": "Be kind."}, {"role": "user", "content": "question 0"}))
    server = patient(fake, system_prompt="Be brief.", temperature=0.7, concurrency=1)
    generate_responses_on_server(server, [CONVERSATIONS[1], own])
    plain, both = (body["messages"] for body in fake.asked)
    assert plain == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "question 1"}]
    assert [turn["content"] for turn in both] == ["Be brief.\n\nBe kind.", "question 0"]
    assert {body["temperature"] for body in fake.asked} == {0.7}
    assert server.identity == {
        "url": fake.url,
        "model": "tiny",
        "system_prompt": "Be brief.",
        "temperature": 0.7,
    }


def test_the_key_stands_in_no_repr_log_or_error(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = patient(fake, api_key="sk-very-secret")
    fake.script = {"all": [status(401, error("Incorrect API key provided: sk-very-secret"))] * 9}
    with pytest.raises(ValueError, match=r"\[api key\].*check the key") as caught:
        generate_responses_on_server(server, CONVERSATIONS)
    assert fake.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert "secret" not in f"{server!r} {caught.value} {caplog.text}"


def test_a_password_in_the_url_is_refused_without_being_repeated() -> None:
    with pytest.raises(ValueError, match="give the key as api_key") as caught:
        Server("https://me:hunter2@host/v1", "m")
    assert "hunter2" not in str(caught.value)


def test_a_query_of_the_url_stays_behind_the_path() -> None:
    server = Server("https://host/openai/deployments/d?api-version=2024", "m")
    assert server.endpoint == "https://host/openai/deployments/d/chat/completions?api-version=2024"
    assert server.address == "https://host/openai/deployments/d"


@pytest.mark.parametrize(
    "spec", ["localhost:8000/v1#m", "10.0.0.1:8000/v1#m", "localhost/v1#m", "host.example:8000/v1#m", "gpu-box:80/v1#m"]
)
def test_a_server_without_its_scheme_is_told_what_to_write(spec: str) -> None:
    with pytest.raises(ValueError, match=f"without its scheme; write http://{spec}"):
        served_model(spec)


@pytest.mark.parametrize("spec", ["toy", "org/name", "org/name@v1.2", "./folder", "/a/b.gguf", "C:/models/x"])
def test_folders_and_hub_ids_are_no_servers(spec: str) -> None:
    assert served_model(spec) is None


def test_a_served_model_is_its_url_and_name() -> None:
    assert served_model("https://host:1/v1#org/name") == ("https://host:1/v1", "org/name")
    with pytest.raises(ValueError, match=r"names a server and no model; write http://host/v1#NAME"):
        served_model("http://host/v1")


def test_a_completion_that_failed_at_its_provider_is_retried(fake: Fake) -> None:
    fake.script = {"question 0": [choice("error", content="")]}
    assert generate_responses_on_server(patient(fake), CONVERSATIONS[:1])[0].text == "answer to question 0"
    assert len(fake.asked) == 2


def test_an_empty_list_of_choices_may_pass(fake: Fake) -> None:
    fake.script = {"question 0": [raw(b'{"choices": []}'), raw(completion(content="late"))]}
    assert generate_responses_on_server(patient(fake), CONVERSATIONS[:1])[0] == Response("late")


def test_the_http_libraries_are_imported_only_where_a_server_is_called() -> None:
    code = "import sys, divalign.lm.server; print(sorted({'httpx2', 'tenacity'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
