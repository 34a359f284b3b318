#!/usr/bin/env python3
"""Expected renderings of chat templates: what transformers' apply_chat_template makes of templates that use the constructs of real ones.

    pip install transformers jinja2 && python3 make_chat_templates.py > chat_templates.json

The templates are written for this test. Each stands for a family and uses what the templates of that family use.
"""
import datetime, json, sys
from transformers.utils import chat_template_utils as utils

NOW = datetime.datetime(2024, 7, 26, 12, 0, 0)

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW

utils.datetime = Clock  # strftime_now shows the same day at all times

# Roles between headers; date by strftime_now; tools in the first user message or the system message; calls of built-in tools.
LLAMA3 = r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- the system message is taken out #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\n\n"}}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "You have these functions:\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there is none!") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\n' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {%- if builtin_tools is defined and tool_call.name in builtin_tools %}
            {{- '<|python_tag|>' + tool_call.name + ".call(" }}
            {%- for arg_name, arg_val in tool_call.arguments | items %}
                {{- arg_name + '="' + arg_val + '"' }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- endif %}
                {%- endfor %}
            {{- ")" }}
        {%- else  %}
            {{- '{"name": "' + tool_call.name + '", ' }}
            {{- '"parameters": ' }}
            {{- tool_call.arguments | tojson }}
            {{- "}" }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# The system message within the first turn; roles must alternate; strip() everywhere.
LLAMA2 = r"""{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% elif use_default and not 'SYS' in messages[0]['content'] %}{% set loop_messages = messages %}{% set system_message = 'Default' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'system' %}{{ '<<SYS>>\n' + content.strip() + '\n<</SYS>>\n\n' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""

# A namespace that counts; tools before the last user message; ids checked for their length.
MISTRAL = r"""{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate user/assistant") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
            {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {%- if not message.tool_call_id is defined or message.tool_call_id|length != 9 %}
            {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
        {%- endif %}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, not " ~ message.role ~ ".") }}
    {%- endif %}
{%- endfor %}
"""

# Ends of lines that trim_blocks drops; a role at a time.
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

# ChatML with tools in tags, a default system message, results joined in one turn by the messages around.
CHATML = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

# Thinking: the last question is searched from the end; what an assistant thought is cut off before it.
THINKING = r"""{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|' + message.role + '|>\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
            {%- else %}
                {{- '<|' + message.role + '|>\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|' + message.role + '|>\n' + content }}
        {%- endif %}
        {{- eos_token }}
    {%- else %}
        {{- '<|' + message.role + '|>\n' + content + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n<think>\n' }}{%- endif %}
"""

# Flags in a namespace, a turn that goes on over several messages, the reasoning split off.
DEEPSEEK = r"""{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and 'tool_calls' in message %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<｜Assistant｜><｜calls｜>' + tool['type'] + '<｜sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n' + tool['function']['arguments']|tojson + '\n' + '```' + '<｜end｜>'}}{%- set ns.is_first = true -%}{%- else %}{{'\n' + tool['type'] + '<｜sep｜>' + tool['function']['name']}}{{'<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and 'tool_calls' not in message %}{%- if ns.is_tool %}{{'<｜outputs｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<｜outputs begin｜>' + message['content']|string}}{%- set ns.is_output_first = false %}{%- else %}{{'\n' + message['content']|string}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<｜outputs end｜>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\n'}}{% endif %}"""

# Documents, a date, controls of the caller, content in parts.
GRANITE = r"""{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = "Knowledge Cutoff Date: April 2024.\nToday's Date: " + strftime_now('%B %d, %Y') + "." %}
    {%- if tools and documents %}
        {%- set system_message = system_message + " Tools and documents." %}
    {%- elif tools %}
        {%- set system_message = system_message + " Tools." %}
    {%- elif documents %}
        {%- set system_message = system_message + " Documents." %}
    {%- endif %}
    {%- if controls is defined and 'length' in controls %}
        {%- set system_message = system_message + " Be " ~ controls['length'] ~ "." %}
    {%- endif %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\n' }}
{%- if tools %}
    {{- '<|start_of_role|>available_tools<|end_of_role|>' }}
    {{- tools | map(attribute='function') | list | tojson(indent=2) }}
    {{- '<|end_of_text|>\n' }}
{%- endif %}
{%- if documents %}
    {%- for document in documents %}
        {{- '<|start_of_role|>document {"document_id": "' + (document['doc_id'] | default(loop.index)) | string + '"}<|end_of_role|>\n' }}
        {{- document['title'] | upper ~ ': ' ~ document.text | replace('\n', ' ') }}
        {{- '<|end_of_text|>\n' }}
    {%- endfor %}
{%- endif %}
{%- for message in loop_messages %}
    {%- if message.content is string %}
        {%- set text = message.content %}
    {%- elif message.content is iterable %}
        {%- set parts = message.content | selectattr('type', 'eq', 'text') | map(attribute='text') | list %}
        {%- set text = parts | join('\n') %}
    {%- else %}
        {%- set text = message.tool_calls | tojson %}
    {%- endif %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + text + '<|end_of_text|>\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant' }}
            {%- if controls %}
                {{- ' ' + controls | tojson() }}
            {%- endif %}
        {{- '<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}"""

# Macros that call themselves over a JSON schema.
MACROS = r"""{%- macro json_to_python_type(json_spec) %}
{%- set basic_type_map = {
    "string": "str",
    "number": "float",
    "integer": "int",
    "boolean": "bool"
} %}
{%- if basic_type_map[json_spec.type] is defined %}
    {{- basic_type_map[json_spec.type] }}
{%- elif json_spec.type == "array" %}
    {{- "List[" +  json_to_python_type(json_spec['items']) + "]"}}
{%- elif json_spec.type == "object" %}
    {{- "Dict[str, " + json_to_python_type(json_spec.additionalProperties) + ']'}}
{%- elif json_spec.type is iterable %}
    {{- "Union[" }}
    {%- for t in json_spec.type %}
      {{- json_to_python_type({"type": t}) }}
      {%- if not loop.last %}
        {{- "," }}
    {%- endif %}
    {%- endfor %}
    {{- "]" }}
{%- else %}
    {{- "Any" }}
{%- endif %}
{%- endmacro %}
{%- macro signature(tool, indent=2) -%}
    {{ tool.name }}(
    {%- for name, spec in tool.parameters.properties.items() -%}
        {{ name }}{{ '' if name in tool.parameters.required else '?' }}: {{ json_to_python_type(spec) }}{{ ', ' if not loop.last }}
    {%- endfor -%}
    ){% if tool.description %}  # {{ tool.description | trim | indent(indent) }}{% endif %}
{%- endmacro -%}
{{ bos_token }}
{%- if tools is iterable and tools | length > 0 %}
{% for tool in tools %}
def {{ signature(tool.function) }}
{% endfor %}
{%- endif %}
{%- for message in messages -%}
    <|{{ message.role | capitalize }}|>
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- for call in message.tool_calls %}{{ call.function.name ~ '(' ~ call.function.arguments ~ ')' }}{% endfor %}
    {%- else %}
        {{- ' ' ~ message.content }}
    {%- endif %}
    {%- if loop.nextitem is defined and loop.nextitem.role == message.role %}+{% endif %}
    {%- if loop.previtem and loop.previtem.role == 'user' %}*{% endif %}
    {{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt -%}<|Assistant|>{% endif %}"""

# Blocks that mark what the assistant says.
GENERATION = r"""{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- generation %}
        {{- message['content'] + eos_token }}
        {%- endgeneration %}
        {{- '\n' }}
    {%- else %}
{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] }}
    {%- endif %}
    {% generation %}
    {% endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

TEMPLATES = {"llama3": LLAMA3, "llama2": LLAMA2, "mistral": MISTRAL, "zephyr": ZEPHYR, "chatml": CHATML, "thinking": THINKING,
             "deepseek": DEEPSEEK, "granite": GRANITE, "macros": MACROS, "generation": GENERATION}

def u(x): return {"role": "user", "content": x}
def a(x, **more): return {"role": "assistant", "content": x, **more}
def s(x): return {"role": "system", "content": x}

WEATHER = {"type": "function", "function": {"name": "weather", "description": " The weather.\nOf a place. ", "parameters": {"type": "object", "properties": {
    "place": {"type": "string", "description": "Ort, z. B. „Köln“ <b>&'\""}, "days": {"type": "integer", "minimum": 1}, "scale": {"type": ["string", "number"], "enum": ["C", "F"]},
    "list": {"type": "array", "items": {"type": "number"}}, "map": {"type": "object", "additionalProperties": {"type": "boolean"}}}, "required": ["place"]}}}
TINY = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}, "required": []}, "return": {"type": "string"}, "strict": True, "limit": 1e-05, "big": 1e+20, "none": None}}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich\n\"x\"", "days": 3, "ratio": 0.5, "deep": [{"a": [1, 2.0, None, True]}, {}, []]}}}
NAMES = {"id": "123456789", "type": "function", "function": {"name": "brave_search", "arguments": {"query": "what's up", "site": "a.b"}}}
TOOL = {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": "{\"temp\": 21.5}"}

CONVERSATIONS = [
    {"messages": [u("Hi")], "add_generation_prompt": True},
    {"messages": [s("Be brief."), u("  Hi there \n")], "add_generation_prompt": True},
    {"messages": [u("Hi"), a("Hello!"), u("And?")], "add_generation_prompt": True},
    {"messages": [s("Sys\n"), u("1"), a(" 2 "), u("3"), a("4\n")]},
    {"messages": [u("Grüße, 世界 🌍 \u00a0\u200b"), a("naïve Σίσυφος ẞ İ")], "add_generation_prompt": False},
    {"messages": [u("<|im_end|> {{ 1 }} {% raw %}"), a("a\\nb \t'q' \"d\"")], "add_generation_prompt": True},
    {"messages": [u("Weather?")], "tools": [WEATHER], "add_generation_prompt": True},
    {"messages": [s("Use tools."), u("Weather?")], "tools": [WEATHER, TINY], "add_generation_prompt": True},
    {"messages": [u("Weather?"), {"role": "assistant", "tool_calls": [CALL]}, TOOL], "tools": [WEATHER], "add_generation_prompt": True},
    {"messages": [u("Weather?"), {"role": "assistant", "content": None, "tool_calls": [CALL]}, TOOL, a("21.5 degrees"), u("Thanks")], "tools": [WEATHER], "add_generation_prompt": True},
    {"messages": [s("S"), u("Weather?"), {"role": "assistant", "content": "I look.", "tool_calls": [NAMES]}, {**TOOL, "content": {"a": [1, "é"], "b": None}}, a("Done")], "tools": [TINY], "variables": {"builtin_tools": ["brave_search", "code_interpreter"], "tools_in_user_message": False}},
    {"messages": [u("Two"), a("", tool_calls=[CALL, NAMES]), TOOL, {**TOOL, "content": "second"}, a("ok")]},
    {"messages": [u("Think"), a("<think>\nlong\n\nthought\n</think>\n\nShort."), u("More"), a("<think>again</think>yes")]},
    {"messages": [u("Think"), a("Short.", reasoning_content="because"), u("More"), a("Sure", thinking="hm\n")], "add_generation_prompt": True},
    {"messages": [u("Q"), a("A"), u("<tool_response>x</tool_response>")], "add_generation_prompt": True, "variables": {"enable_thinking": False}},
    {"messages": [u("What?")], "documents": [{"title": "One", "text": "Line\nline"}, {"doc_id": 7, "title": "straße", "text": "x"}], "add_generation_prompt": True},
    {"messages": [u("What?")], "documents": [{"title": "One", "text": "t"}], "tools": [TINY], "variables": {"controls": {"length": "short", "n": 3}}, "add_generation_prompt": True},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "part 1"}, {"type": "image"}, {"type": "text", "text": "part 2"}]}, a("seen")], "add_generation_prompt": True},
    {"messages": [u("a"), u("b")], "add_generation_prompt": True},
    {"messages": [a("first"), u("b"), a("c")]},
    {"messages": [u("x"), {"role": "critic", "content": "no"}]},
    {"messages": [u("date")], "variables": {"date_string": "01 Jan 2030"}, "add_generation_prompt": True},
    {"messages": [s("only system")], "add_generation_prompt": True},
    {"messages": [u("")], "tools": [], "add_generation_prompt": True},
    {"messages": [s("  "), u("\n\n"), a("\n"), u("end ")], "add_generation_prompt": True},
]

# One construct at a time. `v` has values of every kind.
VALUES = {"n": 3, "f": 1.5, "big": 1e16, "small": 0.00001, "neg": -7, "t": True, "none": None, "s": " Hello, World ", "l": [3, 1, 2], "d": {"b": 1, "a": [True, None], "items": 5},
          "words": ["b", "A", "c", "a"], "objs": [{"k": "x", "v": 2, "in": {"z": 1}}, {"k": "Y", "v": 1, "in": {"z": 0}}, {"k": "x", "v": 3, "in": {}}], "html": "<a href='x'>&\"</a>", "lines": "one\ntwo\r\n\nthree\u2028four\n",
          "uni": "Ünïcode ßtraße ﬁ ǆ", "json": {"a": "\u0001\u001f\"\\/\b\f\n\r\t\u007f\u2028é🌍", "n": [1, -2.5, 1e100, 1e-7, 9223372036854775808, 0.1, 100000.0, 1e15, 1e16], "e": {}, "x": []}}
SNIPPETS = r"""
{{ [1, 2.0, 'a', "it's", none, true, {'k': (1, 2)}, (1,), (), 'q"\'', '\n\t\\é'] }}|{{ none }}|{{ true }}|{{ undefined_thing }}|{{ v.f }}|{{ v.big }}|{{ v.small }}|{{ 1e20 }}|{{ 10 / 4 }}|{{ 4 / 2 }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1 + 2 * 3 - -4 }} {{ v.neg | abs }} {{ -v.n }}
{{ 'a' + 'b' ~ 1 ~ none ~ true ~ 1.0 ~ [1] }} {{ 'ab' * 3 }} {{ [1] * 3 }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ true + 1 }} {{ 'x' * -1 }}|
{{ v.s[1:4] }}|{{ v.s[::-1] }}|{{ v.s[-3:] }}|{{ v.s[:-1] }}|{{ v.s[5:2] }}|{{ v.s[100:] }}|{{ v.s[8:2:-2] }}|{{ v.l[::-1] }}|{{ v.l[1:] }}|{{ v.l[-2:] }}|{{ v.l[:1] }}|{{ v.l[::2] }}|{{ v.s[0] }}{{ v.s[-2] }}|{{ v.l[-1] }}|{{ v.l[7] is defined }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ [1] == (1,) }} {{ {'a': 1} == {'a': 1.0} }} {{ none == none }} {{ 'a' != 'b' }} {{ 3 >= 3 > 2 == 2 }}
{{ 'ell' in v.s }} {{ 3 in v.l }} {{ 'b' in v.d }} {{ 9 not in v.l }} {{ 'a' in ['a'] and 'b' not in 'abc' }} {{ none in [1] }} {{ 1 in (1, 2) }} {{ 'x' in nothing }}
{{ not true or false }} {{ 1 and 2 }} {{ 0 or 'x' }} {{ '' or none }} {{ 'y' if v.t else 'n' }}|{{ 'y' if not v.t }}|{{ (1 if false) is defined }}
{% for x in v.l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.depth }}{{ loop.changed(x) }};{% else %}none{% endfor %}
{% for x in [] %}a{% else %}empty{% endfor %}{% for x in nothing %}a{% else %}none{% endfor %}{% for c in 'abc' %}{{ c }}.{% endfor %}{% for k in v.d %}{{ k }}{% endfor %}{% for k, x in v.d.items() %}{{ k }}={{ x }};{% endfor %}{% for k, x in v.d | items %}{{ k }}{% endfor %}{% for k, x in v.d | dictsort %}{{ k }}{% endfor %}
{% for x in v.l if x > 1 %}{{ x }}{{ loop.index }}{% if loop.last %}!{% endif %}{% endfor %}{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}{{ range(3) | list }}{{ range(5, 0, -2) | list }}{{ range(2, 4) | list }}
{% for x in [[1, [2, 3]], [4]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}
{% set ns = namespace(a=1, b=[]) %}{% for x in v.l %}{% set ns.a = ns.a + x %}{% set ns.b = ns.b + [x] %}{% set y = x %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ y is defined }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c %}block {{ a }}{% endset %}{{ c }}{% set d | upper %}low{% endset %}{{ d }}
{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}{{ caller() if caller }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=5, a=4) }}{{ m() }}{% call m(9) %}inner{% endcall %}{{ m(1) | length }}{% with q = 5 %}{{ q }}{% endwith %}{{ q is defined }}{% filter upper %}abc{{ v.n }}{% endfilter %}
{{ v.s.strip() }}|{{ v.s.lstrip() }}|{{ v.s.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.strip('ab') }}|{{ '\n\t\u001f x \u00a0'.strip() }}|{{ 'a.b'.rstrip('.b') }}|{{ v.s | trim }}|{{ 'xax' | trim('x') }}
{{ 'a,b,,c'.split(',') }}{{ ' a  b c '.split() }}{{ 'a b c d'.split(' ', 2) }}{{ ' a  b  c '.split(none, 1) }}{{ 'a,b,c'.rsplit(',', 1) }}{{ ' a b c '.rsplit(none, 1) }}{{ ''.split() }}{{ ''.split(',') }}{{ v.lines.splitlines() }}{{ v.lines.splitlines(true) }}{{ 'a=b=c'.partition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'abc'.partition('=') }}
{{ 'aXbX'.replace('X', 'yy') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'abc'.replace('', '-') }}{{ 'aXb' | replace('X', 1) }}{{ 'aaa' | replace('a', 'b', 1) }}{{ 'abc'.startswith('ab') }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('bc') }}{{ 'abc'.startswith('b', 1) }}{{ 'abc'.endswith('b', 0, 2) }}
{{ v.uni.upper() }}|{{ v.uni.lower() }}|{{ v.uni.title() }}|{{ v.uni.capitalize() }}|{{ v.uni | upper }}|{{ v.uni | title }}|{{ "don't stop-it (now)" | title }}|{{ "don't stop-it (now)".title() }}|{{ 'aBC' | capitalize }}|{{ 'aBc'.swapcase() }}|{{ 'ß'.casefold() }}
{{ 'abcabc'.find('c') }}{{ 'abcabc'.rfind('c') }}{{ 'abc'.find('x') }}{{ 'éabc'.find('b') }}{{ 'abcabc'.index('b') }}{{ 'abcabc'.count('bc') }}{{ 'abcabc'.find('a', 1) }}{{ 'aaaa'.count('aa') }}{{ '-'.join(['a', 'b']) }}{{ ''.join('abc') }}{{ 'a'.zfill(3) }}{{ '-1'.zfill(4) }}{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}{{ 'ab'.center(5, '*') }}{{ 'a'.center(4, '*') }}{{ 'a' | center(5) }}|
{{ 'abc'.isalpha() }}{{ 'a1'.isalnum() }}{{ '12'.isdigit() }}{{ ''.isdigit() }}{{ ' '.isspace() }}{{ 'ab'.islower() }}{{ 'AB'.isupper() }}{{ 'Ab Cd'.istitle() }}{{ 'a_1'.isidentifier() }}{{ '½'.isnumeric() }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('bc') }}{{ 'a\tb'.expandtabs(4) }}
{{ '%s is %d and %.2f %5s|%-5s|%05d %x %%' % ('a', 3, 1.239, 'r', 'l', 42, 255) }}{{ '%s' % 'x' }}{{ '%s' % [1, 'a'] }}{{ '%(k)s' % {'k': 1} }}{{ '%s-%s' | format('a', 2) }}{{ '{} {1} {0}'.format('a', 'b') if false }}{{ '{}-{}'.format(1, 'b') }}{{ '{1}{0}'.format('a', 'b') }}{{ '{k:>5}|{x:.1f}'.format(k='a', x=2.25) }}{{ '{:05d}'.format(42) }}
{{ v.d.get('b') }}{{ v.d.get('zz') }}{{ v.d.get('zz', 7) }}{{ v.d.keys() | list }}{{ v.d.values() | list }}{{ v.d.items() | list }}{{ v.d['items'] }}{{ v.d.items is callable }}{{ v.d.items is defined }}{{ {'x': 1}['items'] is defined }}{{ v.d.b }}{{ v.d['b'] }}{{ v.d.zz is defined }}{{ dict(a=1, b=2) }}{{ dict({'z': 1}, y=2) }}{{ v.d.copy() == v.d }}
{{ v.l | join(',') }}|{{ v.l | join }}|{{ v.objs | join('-', attribute='k') }}|{{ [1, none, true, 1.5] | join(' ') }}|{{ v.l | first }}{{ v.l | last }}{{ [] | first }}{{ 'abc' | first }}{{ v.l | length }}{{ v.s | count }}{{ v.l | sum }}{{ v.objs | sum(attribute='v') }}{{ v.l | max }}{{ v.l | min }}{{ v.words | max }}{{ v.objs | max(attribute='v') }}
{{ v.l | sort }}{{ v.words | sort }}{{ v.words | sort(case_sensitive=true) }}{{ v.l | sort(reverse=true) }}{{ v.objs | sort(attribute='k') | map(attribute='v') | list }}{{ v.objs | sort(attribute='v', reverse=true) | map(attribute='v') | join }}{{ v.words | unique | list }}{{ ['a', 'A', 'b'] | unique | list }}{{ v.l | reverse | list }}{{ 'abc' | reverse }}
{{ v.objs | selectattr('k', 'equalto', 'x') | list | length }}{{ v.objs | rejectattr('k', 'eq', 'x') | map(attribute='k') | list }}{{ v.objs | selectattr('in') | list | length }}{{ v.objs | selectattr('in.z', 'defined') | map(attribute='in.z') | list }}{{ v.l | select('odd') | list }}{{ v.l | reject('>', 1) | list }}{{ [0, 1, '', 'a'] | select | list }}{{ v.words | map('upper') | join }}{{ v.l | map('string') | list }}{{ v.words | select('in', ['a', 'b']) | list }}{{ v.objs | map(attribute='zz', default='D') | list }}
{{ none | default('d') }}{{ nothing | default('d') }}{{ '' | default('d', true) }}{{ nothing | d }}|{{ v.d.zz | default('q') }}{{ '12' | int }}{{ 'x' | int }}{{ 'x' | int(default=5) }}{{ 1.9 | int }}{{ '1.5' | float }}{{ 'ff' | int(base=16) }}{{ 3 | float }}{{ 2.5 | round }}{{ 3.14159 | round(2) }}{{ 2.1 | round(0, 'ceil') }}{{ 2.567 | round(1, 'floor') }}{{ true | int }}{{ 5 | string ~ 'a' }}{{ [1] | string }}
{{ v.lines | indent }}|{{ 'a\n\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('> ') }}|{{ 'some long text here' | truncate(9) }}|{{ 'some long text here' | truncate(9, true, '~', 0) }}|{{ 'a b, c' | wordcount }}|{{ v.html | e }}|{{ v.html | safe }}|{{ v.html | escape }}
{{ v.l | batch(2) | list }}{{ v.l | batch(2, 0) | list }}{{ [1,2,3,4,5] | slice(2) | list }}{{ [1,2,3,4,5] | slice(3, 'x') | list }}{% for k, g in v.objs | groupby('k') %}{{ k }}:{{ g | map(attribute='v') | list }};{% endfor %}{{ 'abc' | list }}{{ v.d | list }}{{ v.d | dictsort(by='value', reverse=true) | list | length if false }}{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1, 'a': 2} | dictsort(by='value') }}
{{ v.json | tojson }}|{{ v.json | tojson(indent=2) }}|{{ v.json | tojson(ensure_ascii=true) }}|{{ v.json | tojson(separators=(',', ':')) }}|{{ v.json | tojson(sort_keys=true, indent=1) }}|{{ v.html | tojson }}|{{ [1, (2, 3), true, none, 1.0] | tojson }}|{{ {1: 2, true: 3, none: 4, 1.5: 5} | tojson }}|{{ 'x' | tojson(indent=4) }}|{{ [] | tojson(indent=2) }}|{{ [[], {}] | tojson(indent='\t') }}
{{ v.s is string }}{{ v.n is number }}{{ v.t is number }}{{ v.n is integer }}{{ v.t is integer }}{{ v.f is float }}{{ v.t is boolean }}{{ v.d is mapping }}{{ v.l is sequence }}{{ v.s is sequence }}{{ v.d is sequence }}{{ v.l is iterable }}{{ v.s is iterable }}{{ v.n is iterable }}{{ none is none }}{{ v.none is none }}{{ nothing is none }}{{ v.none is defined }}{{ nothing is undefined }}{{ nothing is iterable }}{{ v.t is true }}{{ 1 is true }}{{ v.t is false }}{{ false is false }}
{{ 3 is odd }}{{ 4 is even }}{{ 6 is divisibleby(3) }}{{ 6 is divisibleby 4 }}{{ 1 is eq 1 }}{{ 1 is eq(2) }}{{ 'a' is in ['a'] }}{{ 2 is gt 1 }}{{ 2 is lessthan 1 }}{{ 'a' is lower }}{{ 'A' is upper }}{{ none is sameas none }}{{ 1 is sameas true }}{{ v.l is not string }}{{ not v.l is string }}{{ v.s is defined and v.s is not none }}{{ range is callable }}{{ v.n is callable }}{{ 'upper' is filter }}{{ 'odd' is test }}
  {% if true %}
    indented
  {% endif %}
{%- if true -%}   trimmed   {%- endif -%}   x   {{- 1 -}}   y
  {#- comment -#}  z {# other #}
    {%+ if true %}kept{% endif %}
{% raw %}{{ raw }} {% if %}{% endraw %} end
{{ "\u00e9\x41\n\"\'\\" }}{{ 'a' 'b' }}{{ 1_000 }}{{ 0x1f }}{{ 0o17 }}{{ 0b11 }}{{ 1.5e3 }}{{ [1, 2,] }}{{ {'a': 1,} }}{{ (1) }}{{ (1, ) }}{{ true }}{{ True }}{{ None }}{{ False }}{{ none is none }}
{{ '<' | safe + '&' + v.html }}{{ v.html + '<' | safe }}{{ '<' | safe ~ '&' }}{{ ('<' | safe + '>' | safe) | e }}{{ '&' | e | e }}{{ '<' | safe is string }}
{{ none | selectattr('x') | list }}{{ none | map('upper') | list }}{{ false | reject('odd') | list }}
{% macro m(item, x, slice, set, method, attribute) %}{% for item in v.l[1:] %}{{ item }}{{ v.objs[0]['k'] }}{{ v.s.strip() }}{% endfor %}{% endmacro %}{{ m() }}{% set slice = 1 %}{% set attribute = 2 %}{% set method = 3 %}{{ v.s[slice:][attribute] }}{{ v.d.items() | list | length }}
{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%d %b %Y') }} {{ strftime_now('%A, %B %-d, %y %H:%M:%S %j %p %I %a %m %e %%') }}
{{ v.objs[0]['in'].z }}{{ v.objs[0].k[0] }}{{ v['n'] }}{{ v.objs[-1].v }}{{ v.nothing }}{{ v.objs[0]['zz'] }}|{{ v.l.0 }}{{ v.l[v.n - 3] }}{{ v.words.index('c') }}{{ v.l.count(3) }}{{ {'a': {'b': 'c'}}.a.b }}{{ [1, 2][1] }}{{ 'abc'[1] }}{{ (v.l | sort)[0] }}
""".strip("\n").split("\n")
BLOCKS = [i for i, line in enumerate(SNIPPETS) if line.startswith("  {% if true %}")]
# The block about white space is one template of ten lines.
if BLOCKS:
    first = BLOCKS[0]
    SNIPPETS[first:first + 7] = ["\n".join(SNIPPETS[first:first + 7])]

# Templates that end in an error in transformers, and must here.
ERRORS = r"""
{{ nothing.attribute }}
{{ none + 1 }}
{{ 'a' + 1 }}
{{ v.n in 'a' }}
{% for x in none %}{% endfor %}
{% for x in 5 %}{% endfor %}
{{ v.l.append(1) }}
{{ v.d.update({}) }}
{{ v.d.pop('a') }}
{{ nothing() }}
{{ v.s.nothing() }}
{{ raise_exception('no') }}
{{ nothing | tojson }}
{{ v.l < [none] }}
{{ 1 / 0 }}
{{ 'abc'.index('x') }}
{{ 'a' | nothing }}
{{ 'a' is nothing }}
{{ v.n | length }}
{{ ''.join([1]) }}
{% if %}
{{ 1 +
{% for %}
{% endfor %}
{% set ns = namespace(_a=1) %}
{{ {[]: 1} }}
{% break %}
""".strip("\n").split("\n")

def render(template, conversation):
    try:
        chat = [{key: value for key, value in message.items() if value is not None} for message in conversation["messages"]]  # as apply_chat_template
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        texts, spans = utils.render_jinja_template(
            conversations=[chat], tools=conversation.get("tools"), documents=conversation.get("documents"), chat_template=template,
            add_generation_prompt=conversation.get("add_generation_prompt", False), return_assistant_tokens_mask="generation" in template,
            **{**special, **conversation.get("variables", {})})
        return {"text": texts[0], **({"spans": spans[0]} if "generation" in template and spans else {})}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}

out = {"conversations": CONVERSATIONS, "values": VALUES, "templates": [], "snippets": [], "errors": []}
for name, template in TEMPLATES.items():
    out["templates"].append({"name": name, "template": template, "rendered": [render(template, c) for c in CONVERSATIONS]})
for snippet in SNIPPETS:
    result = render(snippet, {"messages": [u("x")], "variables": {"v": VALUES}})
    if "error" in result: print('BAD', snippet[:60], result, file=sys.stderr)
    out["snippets"].append({"template": snippet, "text": result["text"]})
for template in ERRORS:
    result = render(template, {"messages": [u("x")], "variables": {"v": VALUES}})
    if "error" not in result: print('NOERR', template, result, file=sys.stderr)
    out["errors"].append(template)
json.dump(out, sys.stdout, ensure_ascii=False, indent=1)
print()
