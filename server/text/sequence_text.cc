#include "server/text/sequence_text.h"

#include <algorithm>
#include <utility>

#include "server/text/chat_tokens.h"

namespace shoal {

std::optional<CompletionParserOptions> ChooseParser(
    const ModelText& text, std::span<const int32_t> prompt_token_ids,
    bool has_tools) {
  using Start = CompletionParserOptions::Start;
  // More than a think tag with line breaks takes, whatever the vocabulary.
  constexpr size_t kEndTokens = 16;
  const CompletionSyntax& syntax = text.completion_syntax();
  CompletionParserOptions options;
  options.tools = has_tools && syntax.tool_blocks;
  if (syntax.think_tags) {
    const size_t count = std::min(kEndTokens, prompt_token_ids.size());
    std::string end = text.Decode(prompt_token_ids.last(count),
                                  /*skip_special_tokens=*/false);
    end.resize(end.find_last_not_of(" \t\r\n") + 1);
    options.start = end.ends_with(chat_tokens::kThink)      ? Start::kReasoning
                    : end.ends_with(chat_tokens::kEndThink) ? Start::kContent
                                                            : Start::kEither;
  }
  if (!options.tools && options.start == Start::kContent) return std::nullopt;
  return options;
}

SequenceText::SequenceText(const ModelText& text,
                           const SequenceTextOptions& options)
    : detokenizer_(text, options.skip_special_tokens,
                   options.parser.has_value() ? text.completion_syntax().tokens
                                              : std::vector<int32_t>()),
      matcher_(options.stop, options.include_stop) {
  if (options.parser.has_value()) parser_.emplace(*options.parser);
}

bool SequenceText::Push(int32_t token) { return Add(detokenizer_.Push(token)); }

bool SequenceText::Finish() {
  if (Add(detokenizer_.Finish())) return true;
  if (parser_.has_value() && AddParsed(parser_->Finish())) return true;
  return AddContent(matcher_.Finish());
}

std::vector<CompletionDelta> SequenceText::Take() {
  return std::exchange(out_, {});
}

bool SequenceText::Add(std::string_view text) {
  if (parser_.has_value()) return AddParsed(parser_->Push(text));
  return AddContent(matcher_.Push(text));
}

bool SequenceText::AddParsed(std::vector<CompletionDelta> deltas) {
  for (CompletionDelta& delta : deltas) {
    if (delta.kind == CompletionDelta::Kind::kContent) {
      if (AddContent(matcher_.Push(delta.text))) return true;
      continue;
    }
    // No stop string reaches over what is not content.
    if (AddContent(matcher_.Finish())) return true;
    const bool continues = !out_.empty() && out_.back().kind == delta.kind &&
                           delta.tool_name.empty();
    if (continues) {
      out_.back().text += delta.text;
    } else {
      out_.push_back(std::move(delta));
    }
  }
  return false;
}

bool SequenceText::AddContent(StopMatcher::Result result) {
  constexpr auto kContent = CompletionDelta::Kind::kContent;
  if (!result.text.empty()) {
    if (out_.empty() || out_.back().kind != kContent) out_.emplace_back();
    out_.back().text += result.text;
  }
  matched_stop_ = std::move(result.stop);
  return result.matched;
}

}  // namespace shoal
