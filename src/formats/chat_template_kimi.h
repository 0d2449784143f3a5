// The layout of the Kimi K2 family as a template, for checkpoints that bring none: tools in a system turn, the default system
// prompt, turns of a role or a name, tool calls and results. Source: the layout in the model family's documentation; the text
// here is tests/data/chat/kimi_k2.jinja, which is compared with Jinja2.
#pragma once

#include <string_view>

namespace linnet::formats {

extern const std::string_view kKimiChatTemplate;

}  // namespace linnet::formats
