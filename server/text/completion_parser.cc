#include "server/text/completion_parser.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "nlohmann/json.hpp"
#include "server/text/chat_tokens.h"
#include "server/text/json_bounds.h"

namespace shoal {
namespace {

using namespace chat_tokens;  // NOLINT: the grammar is made of them

constexpr std::string_view kV32Block = "<｜DSML｜function_calls>";
constexpr std::string_view kV4Block = "<｜DSML｜tool_calls>";
constexpr std::string_view kInvoke = "<｜DSML｜invoke name=\"";
constexpr std::string_view kInvokeEnd = "</｜DSML｜invoke>";
constexpr std::string_view kParameter = "<｜DSML｜parameter name=\"";
constexpr std::string_view kParameterEnd = "</｜DSML｜parameter>";
constexpr std::string_view kTagEnd = "\">";
constexpr std::string_view kIsString = "\" string=\"";
constexpr std::string_view kCodeFence = "```";
constexpr std::string_view kBlanks = " \t\r\n";

// Longer names are none; it keeps what is held back small.
constexpr size_t kMaxName = 256;

using Markers = std::initializer_list<std::string_view>;

// Where the longest end of `text` starts that more text could make a marker.
size_t OpenTail(std::string_view text, Markers markers) {
  size_t open = text.size();
  for (std::string_view marker : markers) {
    for (size_t n = std::min(marker.size() - 1, text.size()); n > 0; --n) {
      if (!text.ends_with(marker.substr(0, n))) continue;
      open = std::min(open, text.size() - n);
      break;
    }
  }
  return open;
}

// Whether more text could make `text`, perhaps empty, begin with a marker.
bool MayBegin(std::string_view text, Markers markers) {
  return std::ranges::any_of(markers, [&](std::string_view marker) {
    return marker.starts_with(text);
  });
}

struct Found {
  size_t at = std::string_view::npos;
  std::string_view marker;
};

// The first marker in `text`.
Found FindFirst(std::string_view text, Markers markers) {
  Found first;
  for (std::string_view marker : markers) {
    const size_t at = text.find(marker);
    if (at < first.at) first = {at, marker};
  }
  return first;
}

// Size of `text` without those of `characters` that end it.
size_t TrimmedSize(std::string_view text, std::string_view characters) {
  return text.find_last_not_of(characters) + 1;
}

size_t NumBlanks(std::string_view text) {
  return std::min(text.find_first_not_of(kBlanks), text.size());
}

std::string_view Trim(std::string_view text) {
  text = text.substr(0, TrimmedSize(text, kBlanks));
  return text.substr(NumBlanks(text));
}

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName &&
         name.find_first_of("\n<") == name.npos;
}

// Whether `text` could be the start of a name.
bool MayBeName(std::string_view text) { return text.empty() || IsName(text); }

std::string EscapeJson(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += kHex[c >> 4];
          out += kHex[c & 15];
        } else {
          out += c;
        }
    }
  }
  return out;
}

std::string QuoteJson(std::string_view text) {
  return '"' + EscapeJson(text) + '"';
}

bool IsJson(std::string_view text) {
  return IsBoundedJson(text) && nlohmann::json::accept(text);
}

}  // namespace

CompletionParser::CompletionParser(CompletionParserOptions options)
    : options_(std::move(options)), state_(&CompletionParser::ReadContent) {
  if (options_.start == CompletionParserOptions::Start::kEither) {
    state_ = &CompletionParser::ReadStart;
  }
  if (options_.start == CompletionParserOptions::Start::kReasoning) {
    state_ = &CompletionParser::ReadReasoning;
    skip_newlines_ = true;
  }
}

std::vector<CompletionDelta> CompletionParser::Push(std::string_view text) {
  held_ += text;
  while ((this->*state_)()) {
  }
  return std::exchange(out_, {});
}

std::vector<CompletionDelta> CompletionParser::Finish() {
  ended_ = true;
  while ((this->*state_)()) {
  }
  // Inside a block, between its parts.
  const std::string rest = raw_ + held_;
  const bool only_blanks = Trim(rest).empty();
  if (num_calls_ == 0 || !only_blanks) Emit(Kind::kContent, rest);
  raw_.clear();
  held_.clear();
  return std::exchange(out_, {});
}

void CompletionParser::Drop(size_t size) {
  held_.erase(0, size);
  scanned_ = 0;
}

void CompletionParser::Keep(size_t size) {
  raw_.append(held_, 0, size);
  Drop(size);
}

void CompletionParser::Emit(Kind kind, std::string_view text) {
  if (text.empty()) return;
  if (out_.empty() || out_.back().kind != kind) {
    CompletionDelta& delta = out_.emplace_back();
    delta.kind = kind;
    if (kind == Kind::kToolCall) delta.tool_call_index = num_calls_ - 1;
  }
  out_.back().text += text;
  if (kind == Kind::kToolCall) has_arguments_ = true;
}

void CompletionParser::BeginCall(const std::string& name) {
  raw_.clear();
  has_arguments_ = false;
  has_parameters_ = false;
  CompletionDelta& delta = out_.emplace_back();
  delta.kind = Kind::kToolCall;
  delta.tool_call_index = num_calls_++;
  delta.tool_call_id = options_.new_call_id();
  delta.tool_name = name;
}

bool CompletionParser::EndBlock() {
  raw_.clear();
  skip_newlines_ = true;
  return Enter(&CompletionParser::ReadContent);
}

bool CompletionParser::Break() {
  Emit(Kind::kContent, raw_);
  raw_.clear();
  return Enter(&CompletionParser::ReadContent);
}

bool CompletionParser::ReadStart() {
  const size_t blanks = NumBlanks(held_);
  const std::string_view rest = std::string_view(held_).substr(blanks);
  if (rest.starts_with(kThink)) {
    Drop(blanks + kThink.size());
    skip_newlines_ = true;
    return Enter(&CompletionParser::ReadReasoning);
  }
  if (!ended_ && MayBegin(rest, {kThink})) return false;
  return Enter(&CompletionParser::ReadContent);
}

bool CompletionParser::ReadReasoning() {
  if (skip_newlines_) {
    Drop(std::min(held_.find_first_not_of('\n'), held_.size()));
    skip_newlines_ = held_.empty();
  }
  const std::string_view text = held_;
  const size_t end = text.find(kEndThink);
  if (end != text.npos) {
    Emit(Kind::kReasoning,
         text.substr(0, TrimmedSize(text.substr(0, end), "\n")));
    Drop(end + kEndThink.size());
    skip_newlines_ = true;
    return Enter(&CompletionParser::ReadContent);
  }
  size_t sure = text.size();
  if (!ended_) {
    sure = TrimmedSize(text.substr(0, OpenTail(text, {kEndThink})), "\n");
  }
  Emit(Kind::kReasoning, text.substr(0, sure));
  Drop(sure);
  return false;
}

bool CompletionParser::ReadContent() {
  if (skip_newlines_) {
    Drop(std::min(held_.find_first_not_of('\n'), held_.size()));
    skip_newlines_ = held_.empty();
  }
  const std::string_view text = held_;
  size_t sure = text.size();
  if (options_.tools) {
    const Markers blocks = {kToolCallsBegin, kV32Block, kV4Block};
    const Found block = FindFirst(text, blocks);
    if (block.at != text.npos) {
      const size_t content = TrimmedSize(text.substr(0, block.at), "\n");
      Emit(Kind::kContent, text.substr(0, content));
      const bool is_dsml = block.marker != kToolCallsBegin;
      if (is_dsml) {
        block_end_ = "</";
        block_end_ += block.marker.substr(1);
      }
      const size_t end = block.at + block.marker.size();
      Drop(content);
      Keep(end - content);
      return Enter(is_dsml ? &CompletionParser::ReadInvokes
                           : &CompletionParser::ReadCalls);
    }
    if (!ended_) {
      sure = TrimmedSize(text.substr(0, OpenTail(text, blocks)), "\n");
    }
  }
  Emit(Kind::kContent, text.substr(0, sure));
  Drop(sure);
  return false;
}

bool CompletionParser::ReadCalls() {
  Keep(NumBlanks(held_));
  const std::string_view text = held_;
  if (text.starts_with(kToolCallBegin)) {
    Keep(kToolCallBegin.size());
    return Enter(&CompletionParser::ReadCallHeader);
  }
  if (text.starts_with(kToolCallsEnd)) {
    Drop(kToolCallsEnd.size());
    return EndBlock();
  }
  if (MayBegin(text, {kToolCallBegin, kToolCallsEnd})) return false;
  return Break();
}

bool CompletionParser::ReadCallHeader() {
  const std::string_view text = held_;
  const size_t end = text.find(kToolSep);
  if (end == text.npos) {
    const std::string_view start = text.substr(0, OpenTail(text, {kToolSep}));
    return MayBeName(start) ? false : Break();
  }
  const std::string name(Trim(text.substr(0, end)));
  if (!IsName(text.substr(0, end)) || name.empty()) return Break();
  Keep(end + kToolSep.size());
  fenced_ = false;
  // V3 and R1 say "function" and put the name on the next line.
  if (name == "function") return Enter(&CompletionParser::ReadNameLine);
  BeginCall(name);
  return Enter(&CompletionParser::ReadRawArguments);
}

bool CompletionParser::ReadNameLine() {
  Keep(NumBlanks(held_));
  const std::string_view text = held_;
  if (text.starts_with('{')) {  // V3.1's call of a tool named so
    BeginCall("function");
    return Enter(&CompletionParser::ReadRawArguments);
  }
  const size_t end = text.find('\n');
  if (end == text.npos) return MayBeName(text) ? false : Break();
  const std::string name(Trim(text.substr(0, end)));
  if (!IsName(text.substr(0, end))) return Break();
  BeginCall(name);
  Drop(end + 1);
  return Enter(&CompletionParser::ReadFence);
}

bool CompletionParser::ReadFence() {
  Drop(NumBlanks(held_));
  const std::string_view text = held_;
  if (text.starts_with(kCodeFence)) {
    const size_t end = text.find('\n');
    if (end == text.npos) return false;
    fenced_ = true;
    Drop(end + 1);
  } else if (!ended_ && MayBegin(text, {kCodeFence})) {
    return false;
  }
  return Enter(&CompletionParser::ReadRawArguments);
}

bool CompletionParser::ReadRawArguments() {
  if (!has_arguments_) Drop(NumBlanks(held_));
  const Markers ends = {kToolCallEnd, kToolCallBegin, kToolCallsEnd};
  const std::string_view text = held_;
  const Found end = FindFirst(text, ends);
  const bool is_whole = end.at != text.npos;
  // The arguments, then blanks, the code block's end and blanks, then a marker;
  // what may be any of these is held back.
  size_t sure = is_whole ? end.at : ended_ ? text.size() : OpenTail(text, ends);
  const size_t limit = sure;
  sure = TrimmedSize(text.substr(0, sure), kBlanks);
  if (fenced_) {
    const std::string_view fence = is_whole || ended_ ? kCodeFence : "`";
    for (int i = 0; i < (is_whole || ended_ ? 1 : 3); ++i) {
      if (!text.substr(0, sure).ends_with(fence)) break;
      sure -= fence.size();
    }
    sure = TrimmedSize(text.substr(0, sure), kBlanks);
  }
  Emit(Kind::kToolCall, text.substr(0, sure));
  if (!is_whole) {
    Drop(ended_ ? limit : sure);
    return false;
  }
  if (!has_arguments_) Emit(Kind::kToolCall, "{}");
  Drop(end.at + (end.marker == kToolCallEnd ? end.marker.size() : 0));
  return Enter(&CompletionParser::ReadCalls);
}

bool CompletionParser::ReadInvokes() {
  Keep(NumBlanks(held_));
  const std::string_view text = held_;
  if (text.starts_with(block_end_)) {
    Drop(block_end_.size());
    return EndBlock();
  }
  if (!text.starts_with(kInvoke)) {
    return MayBegin(text, {kInvoke, block_end_}) ? false : Break();
  }
  const std::string_view rest = text.substr(kInvoke.size());
  const size_t end = rest.find(kTagEnd);
  if (end == rest.npos) {
    return MayBeName(rest.substr(0, OpenTail(rest, {kTagEnd}))) ? false
                                                                : Break();
  }
  const std::string name(rest.substr(0, end));
  if (!IsName(name)) return Break();
  Drop(kInvoke.size() + end + kTagEnd.size());
  BeginCall(name);
  Emit(Kind::kToolCall, "{");
  return Enter(&CompletionParser::ReadParameters);
}

bool CompletionParser::ReadParameters() {
  Drop(NumBlanks(held_));
  const std::string_view text = held_;
  const bool is_end = text.starts_with(kInvokeEnd);
  // Some forget the end of a call whose parameters are whole.
  if (is_end || text.starts_with(kInvoke) || text.starts_with(block_end_)) {
    Emit(Kind::kToolCall, "}");
    if (is_end) Drop(kInvokeEnd.size());
    return Enter(&CompletionParser::ReadInvokes);
  }
  if (!text.starts_with(kParameter)) {
    const Markers markers = {kInvokeEnd, kInvoke, block_end_, kParameter};
    return MayBegin(text, markers) ? false : Break();
  }
  const std::string_view rest = text.substr(kParameter.size());
  const size_t end = rest.find(kTagEnd);
  if (end == rest.npos) {
    return MayBeName(rest.substr(0, OpenTail(rest, {kTagEnd}))) ? false
                                                                : Break();
  }
  std::string_view name = rest.substr(0, end);
  if (!IsName(name)) return Break();
  const size_t attribute = name.rfind(kIsString);
  bool is_string = false;
  if (attribute != name.npos) {
    is_string = name.substr(attribute + kIsString.size()) == "true";
    name = name.substr(0, attribute);
  }
  if (std::exchange(has_parameters_, true)) Emit(Kind::kToolCall, ", ");
  Emit(Kind::kToolCall, QuoteJson(name) + (is_string ? ": \"" : ": "));
  Drop(kParameter.size() + end + kTagEnd.size());
  return Enter(is_string ? &CompletionParser::ReadStringValue
                         : &CompletionParser::ReadJsonValue);
}

bool CompletionParser::ReadStringValue() {
  const std::string_view text = held_;
  const size_t end = text.find(kParameterEnd);
  if (end != text.npos) {
    Emit(Kind::kToolCall, EscapeJson(text.substr(0, end)) + '"');
    Drop(end + kParameterEnd.size());
    return Enter(&CompletionParser::ReadParameters);
  }
  const size_t sure = ended_ ? text.size() : OpenTail(text, {kParameterEnd});
  Emit(Kind::kToolCall, EscapeJson(text.substr(0, sure)));
  Drop(sure);
  return false;
}

bool CompletionParser::ReadJsonValue() {
  const std::string_view text = held_;
  // Not from the start each time: values come in many small pieces.
  const size_t from = scanned_ - std::min(scanned_, kParameterEnd.size());
  const size_t end = text.find(kParameterEnd, from);
  if (end == text.npos) {
    scanned_ = text.size();
    if (!ended_) return false;
    Emit(Kind::kToolCall, text);
    Drop(text.size());
    return false;
  }
  const std::string_view value = Trim(text.substr(0, end));
  Emit(Kind::kToolCall,
       IsJson(value) ? std::string(value) : QuoteJson(text.substr(0, end)));
  Drop(end + kParameterEnd.size());
  return Enter(&CompletionParser::ReadParameters);
}

}  // namespace shoal
