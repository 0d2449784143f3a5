#include "cli/logits.h"

#include <algorithm>

#include "cli/ids_file.h"
#include "cli/progress.h"
#include "core/text.h"
#include "formats/safetensors_writer.h"

namespace linnet::cli {
namespace {

// The output file: rows of width `width` by (sequence, token), under a name.
class Writer {
 public:
  Writer(const LogitsArgs& args, const IdsFile& ids, const model::ModelConfig& config)
      : n_tokens_(ids.n_tokens), file_(args.out, specs(args.hidden, ids, config)) {}

  void rows(const std::string& name, int64_t sequence, int64_t first, const ConstTensor& rows) {
    const auto bytes = static_cast<size_t>(rows.bytes());
    file_.write_at(name, static_cast<uint64_t>((sequence * n_tokens_ + first) * rows[1]) * sizeof(float),
                   {rows.data, bytes});
  }
  void commit() { file_.commit(); }

 private:
  static std::vector<formats::TensorSpec> specs(bool hidden, const IdsFile& ids, const model::ModelConfig& config) {
    std::vector<formats::TensorSpec> specs{{"logits", DType::f32, {ids.n_rows, ids.n_tokens, config.vocab_size}}};
    for (int64_t layer = 0; hidden && layer <= config.n_layers(); ++layer)
      specs.push_back({cat("hidden.", layer), DType::f32, {ids.n_rows, ids.n_tokens, config.hidden}});
    return specs;
  }

  int64_t n_tokens_;
  formats::SafetensorsWriter file_;
};

}  // namespace

int run_logits(const LogitsArgs& args) {
  const auto engine = open_engine(args.engine);
  const IdsFile ids = read_ids_file(args.ids, engine->config().vocab_size);
  Writer writer(args, ids, engine->config());
  ProgressLine progress("logits", "tokens");
  // One sequence after the other: with Want::all every token of a pass is a row of the stream, so a layer's rows begin at the
  // tokens that the slot holds already.
  runtime::StateSlot slot = engine->new_slot();
  int64_t sequence = 0;
  if (args.hidden)
    engine->set_observer([&](int64_t layer, const ConstTensor& stream) {
      writer.rows(cat("hidden.", layer), sequence, slot.n_tokens(), stream);
    });
  for (; sequence < ids.n_rows; ++sequence) {
    slot.reset();
    const runtime::Append request{.slot = &slot, .tokens = ids.row(sequence), .want = runtime::Want::all};
    engine->append({&request, 1}, [&](size_t, int64_t first, Tensor rows) {
      writer.rows("logits", sequence, first, rows);
      progress.update(sequence * ids.n_tokens + first, ids.n_rows * ids.n_tokens);
    });
  }
  writer.commit();
  return 0;
}

}  // namespace linnet::cli
