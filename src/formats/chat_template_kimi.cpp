#include "formats/chat_template_kimi.h"

namespace linnet::formats {

const std::string_view kKimiChatTemplate =
    R"jinja({#- Layout of the Kimi K2 family, with tools, tool calls, tool results and parts of content. -#}
{% macro body(message) -%}
  {%- if message.content is string -%}
    {{ message.content }}
  {%- elif message.content is not none and message.content is defined -%}
    {%- for part in message.content if part.type == 'text' -%}
      {{ part['text'] }}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{% macro turn(control, message) -%}
  {{ control }}{{ message.get('name') or message['role'] }}<|im_middle|>
{%- endmacro -%}
{%- if tools -%}
  <|im_system|>tool_declare<|im_middle|>{{ tools | tojson(separators=(',', ':'), sort_keys=true) }}<|im_end|>
{%- endif -%}
{%- for message in messages -%}
  {%- if loop.first and message.role != 'system' -%}
    <|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>
  {%- endif -%}
  {%- if message.role == 'system' -%}
    {{ turn('<|im_system|>', message) ~ body(message) }}
  {%- elif message.role == 'user' -%}
    {{ turn('<|im_user|>', message) ~ body(message) }}
  {%- elif message.role == 'assistant' -%}
    {{ turn('<|im_assistant|>', message) ~ body(message) }}
    {%- if message.tool_calls -%}
      <|tool_calls_section_begin|>
      {%- for call in message.tool_calls -%}
        <|tool_call_begin|>{{ call.id or 'functions.' ~ call.function.name ~ ':' ~ loop.index0 -}}
        <|tool_call_argument_begin|>
        {%- if call.function.arguments is string %}{{ call.function.arguments }}{% else %}{{ call.function.arguments | tojson }}{% endif -%}
        <|tool_call_end|>
      {%- endfor -%}
      <|tool_calls_section_end|>
    {%- endif -%}
  {%- elif message.role == 'tool' -%}
    {{ turn('<|im_system|>', message) }}## Return of {{ message.tool_call_id }}{{ '\n' ~ body(message) }}
  {%- else -%}
    {{ raise_exception('unknown role ' ~ message.role) }}
  {%- endif -%}
  <|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}
  <|im_assistant|>assistant<|im_middle|>
{%- endif -%}
)jinja";

}  // namespace linnet::formats
