#include "server/synth/vocabulary.h"

#include <utility>

#include "engine/loading/load_error.h"
#include "kernels/check.h"
#include "nlohmann/json.hpp"
#include "server/synth/file_writer.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

// DeepSeek's names, so that its chat formats are recognised.
constexpr const char* kSpecialTokens[] = {
    "<\uFF5Cbegin\u2581of\u2581sentence\uFF5C>",
    "<\uFF5Cend\u2581of\u2581sentence\uFF5C>", "<\uFF5C\u2581pad\u2581\uFF5C>",
    "<\uFF5CUser\uFF5C>", "<\uFF5CAssistant\uFF5C>"};
constexpr int64_t kNumHidden = 3;  // of these; the others show in text

constexpr const char* kChatTemplate =
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}<\uFF5CUser\uFF5C>{{ message.content }}"
    "{% elif message.role == 'assistant' %}<\uFF5CAssistant\uFF5C>"
    "{{ message.content }}{{ eos_token }}"
    "{% else %}{{ message.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<\uFF5CAssistant\uFF5C>{% endif %}";

// The code point that stands for a byte: its own where it shows, others from
// U+0100 on.
std::vector<uint32_t> ByteAlphabet() {
  std::vector<uint32_t> alphabet;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool shows = (byte >= 0x21 && byte <= 0x7e) ||
                       (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    alphabet.push_back(shows ? byte : next++);
  }
  return alphabet;
}

// Of at most two bytes, as all of the alphabet have.
std::string Utf8(uint32_t code_point) {
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xc0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3f))};
}

std::vector<std::string> Tokens(int64_t vocab_size) {
  SHOAL_CHECK(vocab_size >= kLeastVocabulary);
  std::vector<std::string> tokens(std::begin(kSpecialTokens),
                                  std::end(kSpecialTokens));
  const std::vector<uint32_t> alphabet = ByteAlphabet();
  for (const uint32_t code_point : alphabet) tokens.push_back(Utf8(code_point));
  const std::string space = Utf8(alphabet[' ']);
  while (std::ssize(tokens) < vocab_size) {
    tokens.push_back(Concat({space, "t", tokens.size()}));
  }
  return tokens;
}

}  // namespace

absl::Status WriteTokenizerFiles(const std::string& folder,
                                 int64_t vocab_size) {
  Json vocabulary = Json::object();
  int64_t id = 0;
  for (std::string& token : Tokens(vocab_size)) {
    vocabulary.get_ref<Json::object_t&>().emplace_back(std::move(token), id++);
  }
  Json added = Json::array();
  for (id = 0; id < std::ssize(kSpecialTokens); ++id) {
    added.push_back({{"id", id},
                     {"content", kSpecialTokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", id < kNumHidden}});
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  const Json tokenizer = {{"version", "1.0"},
                          {"truncation", nullptr},
                          {"padding", nullptr},
                          {"added_tokens", std::move(added)},
                          {"normalizer", nullptr},
                          {"pre_tokenizer", byte_level},
                          {"post_processor", nullptr},
                          {"decoder", byte_level},
                          {"model",
                           {{"type", "BPE"},
                            {"dropout", nullptr},
                            {"unk_token", nullptr},
                            {"continuing_subword_prefix", nullptr},
                            {"end_of_word_suffix", nullptr},
                            {"fuse_unk", false},
                            {"byte_fallback", false},
                            {"vocab", std::move(vocabulary)},
                            {"merges", Json::array()}}}};
  absl::Status status = WriteFile(folder + "/tokenizer.json", tokenizer.dump());
  if (!status.ok()) return status;
  const Json config = {{"add_bos_token", true},
                       {"add_eos_token", false},
                       {"bos_token", kSpecialTokens[0]},
                       {"eos_token", kSpecialTokens[1]},
                       {"pad_token", kSpecialTokens[2]},
                       {"chat_template", kChatTemplate},
                       {"tokenizer_class", "PreTrainedTokenizerFast"}};
  return WriteFile(folder + "/tokenizer_config.json", config.dump(1));
}

void AddTokenizerMetadata(int64_t vocab_size, GgufMetadataWriter* metadata) {
  constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4;
  std::vector<int32_t> types(vocab_size, kNormal);
  for (int64_t id = 0; id < std::ssize(kSpecialTokens); ++id) {
    types[id] = id < kNumHidden ? kControl : kUserDefined;
  }
  metadata->PutString("tokenizer.ggml.model", "gpt2");
  metadata->PutString("tokenizer.ggml.pre", "gpt-2");
  metadata->PutStrings("tokenizer.ggml.tokens", Tokens(vocab_size));
  metadata->PutI32s("tokenizer.ggml.token_type", types);
  metadata->PutStrings("tokenizer.ggml.merges", {});
  metadata->PutU32("tokenizer.ggml.bos_token_id", 0);
  metadata->PutU32("tokenizer.ggml.eos_token_id", 1);
  metadata->PutU32("tokenizer.ggml.padding_token_id", 2);
  metadata->PutBool("tokenizer.ggml.add_bos_token", true);
  metadata->PutString("tokenizer.chat_template", kChatTemplate);
}

}  // namespace shoal
