// Texts that V3.2 and V4 were trained with, byte for byte; the goldens in
// tests/golden/chat/constants.json hold them too.
#pragma once

#include <string_view>

namespace shoal {

// Around the tools' schemas, one JSON object a line.
extern const std::string_view kV32ToolsHead;
extern const std::string_view kV32ToolsTail;
extern const std::string_view kV4ToolsHead;
extern const std::string_view kV4ToolsTail;
// Before a JSON schema.
extern const std::string_view kResponseFormatHead;
// V4's reasoning_effort "max".
extern const std::string_view kV4EffortMax;

}  // namespace shoal
