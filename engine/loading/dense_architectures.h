// llama, qwen2 and qwen3: grouped-query attention and a SwiGLU MLP in every
// layer. The functions are entries of the table in architecture.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/loading/architecture.h"

namespace shoal {

void ReadLlamaHfConfig(FieldReader& fields, ModelConfig* config);
void ReadQwen2HfConfig(FieldReader& fields, ModelConfig* config);
void ReadQwen3HfConfig(FieldReader& fields, ModelConfig* config);

// Its attention and biases, which deepseek (V1) has beside experts.
void ReadLlamaGgufLayers(FieldReader& fields, const GgufFile& gguf,
                         ModelConfig* config);
void ReadLlamaGgufConfig(FieldReader& fields, const GgufFile& gguf,
                         ModelConfig* config);
void ReadQwen2GgufConfig(FieldReader& fields, const GgufFile& gguf,
                         ModelConfig* config);
void ReadQwen3GgufConfig(FieldReader& fields, const GgufFile& gguf,
                         ModelConfig* config);

void AddDenseTensors(const ModelConfig& config,
                     std::vector<TensorSpec>* tensors);

// Parts that other architectures share.
// embed_tokens, the final norm and, unless tied, lm_head.
void AddOuterTensors(const ModelConfig& config,
                     std::vector<TensorSpec>* tensors);
// The two norms and q, k, v, o of the layer with that name prefix
// ("model.layers.3.").
void AddGqaTensors(const ModelConfig& config, const std::string& layer,
                   std::vector<TensorSpec>* tensors);
// gate, up and down of width `width` under `prefix` ("...mlp.").
void AddMlpTensors(const ModelConfig& config, const std::string& prefix,
                   int64_t width, std::vector<TensorSpec>* tensors);

}  // namespace shoal
