#!/usr/bin/env python3
"""The clients of OpenAI and Anthropic against a running server: clients.py ADDRESS [MODEL]"""
import json
import sys

import anthropic
import jsonschema
import openai

address = sys.argv[1]
client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
claude = anthropic.Anthropic(base_url=address, api_key="none", max_retries=0)
model = sys.argv[2] if len(sys.argv) > 2 else client.models.list().data[0].id
messages = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "What is an iterator?"}]
schema = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
                   "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}},
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
weather = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
           "required": ["city", "unit"], "additionalProperties": False}


def check(what, is_so, seen=None):
    if not is_so:
        sys.exit(f"{what}: {seen!r}")
    print(f"ok: {what}")


def whole(ask, is_whole):
    """An answer that its grammar ended: a small model may write spaces until its tokens are used up."""
    for seed in range(30):
        answer = ask(seed)
        if is_whole(answer):
            return answer, seed
    sys.exit(f"no answer ends: {answer!r}")


def models():
    listed = [one.id for one in client.models.list()]
    check("models", model in listed and client.models.retrieve(model).id == model, listed)
    check("anthropic models", model in [one.id for one in claude.models.list()])


def chat():
    answer = client.chat.completions.create(model=model, messages=messages, max_completion_tokens=20, seed=1, n=2, logprobs=True, top_logprobs=2)
    choice = answer.choices[0]
    check("chat", choice.message.role == "assistant" and len(answer.choices) == 2 and choice.finish_reason in ("stop", "length"), answer)
    check("chat: usage", answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage)
    check("chat: logprobs", len(choice.logprobs.content[0].top_logprobs) == 2, choice.logprobs)
    again = client.chat.completions.create(model=model, messages=messages, max_completion_tokens=20, seed=1)
    check("chat: the same seed, the same text", again.choices[0].message.content == choice.message.content, again)
    text, usage = "", None
    for chunk in client.chat.completions.create(model=model, messages=messages, max_completion_tokens=20, seed=1, stream=True,
                                                stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    check("chat: a stream of the same text", text == choice.message.content, (text, choice.message.content))
    check("chat: usage of a stream", usage is not None and usage.completion_tokens == again.usage.completion_tokens, usage)
    with client.chat.completions.stream(model=model, messages=messages, max_completion_tokens=20, seed=1) as stream:
        deltas = "".join(event.delta for event in stream if event.type == "content.delta")
        check("chat: the stream helper", deltas == text, (deltas, text))


def extra_fields():
    extra = {"top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1, "dry_multiplier": 0.8, "xtc_probability": 0.1, "mirostat": 0}
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=5, extra_body=extra, logit_bias={"5": -100},
                                            presence_penalty=0.5, frequency_penalty=0.5, top_p=0.9, temperature=0.7, stop=["\n\n\n"])
    check("llama.cpp's fields", answer.usage.completion_tokens <= 5, answer)


def structured():
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    answer, _ = whole(lambda seed: client.chat.completions.create(model=model, messages=messages, max_tokens=200, seed=seed, response_format=form),
                      lambda answer: answer.choices[0].finish_reason == "stop")
    value = json.loads(answer.choices[0].message.content)
    jsonschema.validate(value, schema)
    check("JSON schema", True)
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=3, response_format={"type": "json_object"})
    check("JSON object", answer.choices[0].message.content.lstrip().startswith("{"), answer)


def tools():
    tool = {"type": "function", "function": {"name": "get_weather", "description": "The weather of a city", "parameters": weather}}
    ask = [{"role": "user", "content": "How is the weather in Paris?"}]
    arguments = dict(model=model, messages=ask, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    call, seed = whole(lambda seed: client.chat.completions.create(**arguments, seed=seed), lambda answer: answer.choices[0].finish_reason == "tool_calls")
    call, arguments = call.choices[0], {**arguments, "seed": seed}
    check("tools", call.finish_reason == "tool_calls" and call.message.tool_calls[0].function.name == "get_weather", call)
    jsonschema.validate(json.loads(call.message.tool_calls[0].function.arguments), weather)
    name, text = None, ""
    for chunk in client.chat.completions.create(**arguments, stream=True):
        for part in chunk.choices[0].delta.tool_calls or []:
            name = part.function.name or name
            text += part.function.arguments or ""
    check("tools: a stream of the same call", (name, text) == ("get_weather", call.message.tool_calls[0].function.arguments), (name, text))
    chosen = client.chat.completions.create(**{**arguments, "tool_choice": {"type": "function", "function": {"name": "get_weather"}}})
    check("tools: one by name", chosen.choices[0].message.tool_calls[0].function.name == "get_weather", chosen)
    result = {"role": "tool", "tool_call_id": call.message.tool_calls[0].id, "content": "22 degrees"}
    follow = ask + [call.message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(model=model, messages=follow, tools=[tool], tool_choice="none", max_tokens=5)
    check("tools: a result", answer.choices[0].message.tool_calls is None, answer)


def completions_and_embeddings():
    answer = client.completions.create(model=model, prompt=["The", "A"], max_tokens=4, logprobs=2, seed=1)
    check("completions", [choice.index for choice in answer.choices] == [0, 1] and len(answer.choices[0].logprobs.tokens) <= 4, answer)
    text = "".join(chunk.choices[0].text for chunk in client.completions.create(model=model, prompt="The", max_tokens=4, seed=1, stream=True) if chunk.choices)
    check("completions: a stream", text == answer.choices[0].text, (text, answer))
    plain = client.embeddings.create(model=model, input=["a", "b"], encoding_format="float")
    packed = client.embeddings.create(model=model, input=["a", "b"])  # base64 on the wire
    check("embeddings", all(abs(x - y) < 1e-6 for x, y in zip(plain.data[1].embedding, packed.data[1].embedding)))


def responses():
    answer = client.responses.create(model=model, input="What is an iterator?", max_output_tokens=20, extra_body={"seed": 1})
    check("responses", answer.object == "response" and answer.status in ("completed", "incomplete") and answer.usage.output_tokens <= 20, answer)
    kinds, final = [], None
    for event in client.responses.create(model=model, input="What is an iterator?", max_output_tokens=20, stream=True, extra_body={"seed": 1}):
        kinds.append(event.type)
        final = event
    check("responses: a stream", kinds[0] == "response.created" and final.type in ("response.completed", "response.incomplete"), kinds)
    check("responses: the same text", final.response.output_text == answer.output_text, (final, answer))
    tool = {"type": "function", "name": "get_weather", "parameters": weather, "strict": True}
    wants = dict(model=model, input="Weather in Paris?", tools=[tool], tool_choice="required", max_output_tokens=200, parallel_tool_calls=False)
    call, seed = whole(lambda seed: client.responses.create(**wants, extra_body={"seed": seed}), lambda answer: answer.status == "completed")
    item = next(item for item in call.output if item.type == "function_call")
    jsonschema.validate(json.loads(item.arguments), weather)
    with client.responses.stream(**wants, extra_body={"seed": seed}) as stream:
        for _ in stream:
            pass
        streamed = next(item for item in stream.get_final_response().output if item.type == "function_call")
    check("responses: tools", streamed.arguments == item.arguments and streamed.name == "get_weather", (streamed, item))
    text = {"format": {"type": "json_schema", "name": "person", "schema": schema, "strict": True}}
    form, _ = whole(lambda seed: client.responses.create(model=model, input="A person", max_output_tokens=200, extra_body={"seed": seed}, text=text),
                    lambda answer: answer.status == "completed")
    jsonschema.validate(json.loads(form.output_text), schema)
    check("responses: JSON schema", True)


def anthropic_messages():
    ask = dict(model=model, max_tokens=20, system="You are brief.", messages=[{"role": "user", "content": "What is an iterator?"}], extra_body={"seed": 1})
    answer = claude.messages.create(**ask)
    check("messages", answer.type == "message" and answer.stop_reason in ("end_turn", "max_tokens") and answer.usage.output_tokens <= 20, answer)
    with claude.messages.stream(**ask) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    said = "".join(block.text for block in answer.content)
    check("messages: a stream of the same text", text == said and final.stop_reason == answer.stop_reason, (text, answer))
    counted = claude.messages.count_tokens(model=model, system=ask["system"], messages=ask["messages"])
    used = answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    check("messages: token counts", counted.input_tokens == used, (counted, answer.usage))
    tool = {"name": "get_weather", "description": "The weather of a city", "input_schema": weather}
    wants = dict(model=model, max_tokens=200, tools=[tool], tool_choice={"type": "any", "disable_parallel_tool_use": True},
                 messages=[{"role": "user", "content": "Weather in Paris?"}])
    call, seed = whole(lambda seed: claude.messages.create(**wants, extra_body={"seed": seed}), lambda answer: answer.stop_reason == "tool_use")
    wants["extra_body"] = {"seed": seed}
    block = next(block for block in call.content if block.type == "tool_use")
    jsonschema.validate(block.input, weather)
    check("messages: tools", call.stop_reason == "tool_use" and block.name == "get_weather", call)
    with claude.messages.stream(**wants) as stream:
        streamed = next(block for block in stream.get_final_message().content if block.type == "tool_use")
    check("messages: a stream of the same call", streamed.input == block.input, (streamed, block))
    follow = wants["messages"] + [{"role": "assistant", "content": [block.model_dump()]},
                                  {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "22 degrees"}]}]
    answer = claude.messages.create(model=model, max_tokens=5, tools=[tool], tool_choice={"type": "none"}, messages=follow)
    check("messages: a result", answer.stop_reason in ("end_turn", "max_tokens"), answer)


def errors():
    for what, kind, call in [
        ("an unknown model", openai.NotFoundError, lambda: client.chat.completions.create(model="none", messages=messages)),
        ("a wrong number", openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=messages, temperature=-1)),
        ("a long prompt", openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=[{"role": "user", "content": "word " * 200_000}])),
        ("a schema that cannot be compiled", openai.BadRequestError, lambda: client.chat.completions.create(
            model=model, messages=messages, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/none"}}})),
        ("no max_tokens", anthropic.BadRequestError, lambda: claude.post("/v1/messages", cast_to=object, body={"model": model, "messages": []})),
        ("an unknown model of Anthropic", anthropic.NotFoundError, lambda: claude.messages.create(model="none", max_tokens=1, messages=messages[1:])),
    ]:
        try:
            call()
        except kind as error:
            check(f"errors: {what}", error.body is not None, error)
        else:
            sys.exit(f"{what} is no error")


for part in [models, chat, extra_fields, structured, tools, completions_and_embeddings, responses, anthropic_messages, errors]:
    part()
