#include "tests/fuzz/targets.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "server/synth/synthesize.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFolders[] = {
    "llama-gqa",
    "llama-tied-rope-llama3",
    "qwen2",
    "qwen3",
    "qwen3-yarn",
    "deepseek-v1-moe",
    "deepseek_v2-lite",
    "deepseek_v2-group-limited-qlora-yarn",
    "deepseek_v3-noaux-yarn",
    "deepseek_v3-fp8",
    "deepseek_v31-fp8-ue8m0",
    "deepseek_v32",
    "deepseek_v4",
    "deepseek_v4-clamp-window128",
    "deepseek_v4-fp8-fp4experts",
};
constexpr const char* kGgufs[] = {
    "gguf/llama-tied-bf16.gguf", "gguf/qwen3-bf16.gguf",
    "gguf/deepseek_v3-kvb.gguf", "gguf/deepseek_v3-mla.gguf",
    "gguf/llama-gqa-q8_0.gguf",
};
constexpr const char* kSynthetic[] = {"tiny-qwen2 q4_0", "tiny-moe q8_0",
                                      "tiny-v3 q4_k", "tiny-v32 q8_0",
                                      "tiny-v4 q4_0"};

constexpr char kSharded[] = "tiny-v3 fp8";
constexpr char kTemplate[] =
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "<|im_start|>{{ m.content | trim }}{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{{ messages[0]['content'][:2] }}";

bool IsSynthetic(const std::string& source) {
  return source.find(' ') != source.npos;
}

void Synthesize(const std::string& source, const std::string& path) {
  SynthOptions options;
  const size_t space = source.find(' ');
  options.geometry = source.substr(0, space);
  options.format = source.substr(space + 1);
  options.path = path;
  options.max_shard_bytes = 1'000'000;
  options.force = true;  // into the folder that is there
  const auto report = Synthesize(options);
  if (report.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(report.status().message()).c_str());
  std::abort();
}

}  // namespace

std::string FuzzTarget::name() const {
  return file.empty() ? source : source + " " + file;
}

bool FuzzTarget::has_text() const {
  return !file.empty() || IsSynthetic(source);
}

std::string FuzzTarget::ModelPath(const std::string& folder) const {
  return file.empty() ? folder + "/model.gguf" : folder;
}

void FuzzTarget::Make(const std::string& folder) const {
  const fs::path golden = SHOAL_GOLDEN_DIR;
  fs::create_directories(folder);
  if (IsSynthetic(source)) {
    Synthesize(source, ModelPath(folder));
  } else if (file.empty()) {
    fs::copy_file(golden / source, ModelPath(folder));
  } else {
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy_file(golden / source / name, fs::path(folder) / name);
    }
  }
  if (source != kSharded) return;
  // A tokenizer of 2048 entries rather than the synthetic bytes, and a template
  // of its own that is read where there is such a file.
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    fs::copy_file(golden / "tokenizer/small" / name, fs::path(folder) / name,
                  fs::copy_options::overwrite_existing);
  }
  std::ofstream(folder + "/generation_config.json")
      << R"({"bos_token_id": 0, "eos_token_id": [1, 2]})";
  if (file == "chat_template.jinja") {
    std::ofstream(folder + "/chat_template.jinja") << kTemplate;
  }
}

std::vector<FuzzTarget> FuzzTargets() {
  std::vector<FuzzTarget> targets;
  for (const char* folder : kFolders) {
    targets.push_back({folder, "config.json"});
    targets.push_back({folder, "model.safetensors"});
  }
  for (const char* file :
       {"model.safetensors.index.json", "model-00001-of-00004.safetensors",
        "tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    targets.push_back({kSharded, file});
  }
  targets.push_back({kSharded, "chat_template.jinja", /*free_text=*/true});
  for (const char* file : kGgufs) targets.push_back({file, ""});
  for (const char* source : kSynthetic) targets.push_back({source, ""});
  return targets;
}

}  // namespace shoal
