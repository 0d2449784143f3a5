// The list of mixers. To add one: an op folder (or a setting of linear_attn), a file beside this one, and a line here.
#include <map>

#include "core/errors.h"
#include "core/text.h"
#include "model/layer_part.h"
#include "model/mixers/delta.h"
#include "model/mixers/mla.h"

namespace linnet::model {
namespace {

std::map<std::string, MixerMaker>& makers() {
  static std::map<std::string, MixerMaker> map = {
      {"kda",
       [](const ModelConfig& c, DType) -> std::unique_ptr<Mixer> {
         return std::make_unique<DeltaMixer>(c, ops::Decay::per_channel);
       }},
      {"gdn",
       [](const ModelConfig& c, DType) -> std::unique_ptr<Mixer> {
         return std::make_unique<DeltaMixer>(c, ops::Decay::per_token);
       }},
      {"mla",
       [](const ModelConfig& c, DType cache) -> std::unique_ptr<Mixer> {
         return std::make_unique<MlaMixer>(c, cache);
       }},
  };
  return map;
}

}  // namespace

void Mixer::backward(const Pass&, std::span<const LayerState>, ConstTensor, ConstTensor, Tensor, const Exec&,
                     Tape&) const {
  throw Unsupported("mixer: this one has no backward pass: it cannot be trained");
}

void register_mixer(const std::string& name, MixerMaker maker) { makers()[name] = maker; }

std::unique_ptr<Mixer> make_mixer(const std::string& name, const ModelConfig& config, DType cache_dtype) {
  const auto found = makers().find(name);
  if (found != makers().end()) return found->second(config, cache_dtype);
  std::string known;
  for (const auto& [other, maker] : makers()) known += cat(known.empty() ? "" : ", ", other);
  throw InvalidArgument(cat("mixer: expected one of ", known, ", got ", printable(name, 60)));
}

}  // namespace linnet::model
