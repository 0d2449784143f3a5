// Every field of TrainConfig once: name, default, range, meaning. What reads, documents and writes them are visitors of this
// list. Internal to train_config*.cpp.
#pragma once

#include <initializer_list>
#include <limits>

#include "train/train_config.h"

namespace linnet::train {

// The configuration as the file may say it: some numbers follow from others.
struct TrainConfigDraft {
  TrainConfig config;
  std::optional<int64_t> micro_batch_tokens, steps, schedule_tokens, warmup_steps, decay_steps;
  std::optional<double> decay_fraction;
};

// Whether --resume may go on with another value.
enum class OnResume : uint8_t { same, may_change };

template <class Enum>
struct Choice {
  const char* name;
  Enum value;
};
template <class Enum>
using Choices = std::initializer_list<Choice<Enum>>;

// A range or a default, with the name of the field and what it means.
template <class T>
struct NumberField {
  const char* key;
  T fallback, low, high;
  const char* meaning;
  OnResume on_resume = OnResume::same;
};
using IntegerField = NumberField<int64_t>;
using RealField = NumberField<double>;
struct TextField {
  const char* key;
  const char* fallback;  // nullptr: required
  const char* meaning;
  OnResume on_resume = OnResume::same;
};

constexpr int64_t kMaxTokens = int64_t{1} << 50, kMaxSteps = int64_t{1} << 40;
constexpr double kMaxRate = 10;

template <class Visitor>
void visit_data(Visitor& v, TrainConfigDraft& d) {
  RunDataConfig& data = d.config.data;
  v.path({"folder", nullptr, "folder that `linnet data build` wrote", OnResume::may_change}, data.folder);
  v.integer({"sequence_tokens", 1024, 1, kMaxTokens, "T: tokens of one sequence"}, data.sequence_tokens);
  v.integer({"batch_tokens", 16384, 1, kMaxTokens, "tokens of one step; a multiple of micro_batch_tokens"},
            data.batch_tokens);
  v.derived("micro_batch_tokens", "batch_tokens",
            "tokens of one forward and backward pass, a multiple of sequence_tokens; the gradients of the passes of a "
            "step are added",
            d.micro_batch_tokens, int64_t{1}, kMaxTokens);
  v.choice("packing", Packing::documents,
           "documents: they lie side by side, state and attention start anew at each; stream: as one text, state and "
           "attention reach across",
           data.packing, Choices<Packing>{{"documents", Packing::documents}, {"stream", Packing::stream}});
  v.text({"loss_after", "", "a token's name: only the tokens of a document after it count in the loss; empty: all"},
         data.loss_after);
  v.integer({"shuffle_seed", 0, 0, kMaxTokens, "seed of the order of the documents"}, data.shuffle_seed);
}

template <class Visitor>
void visit_state(Visitor& v, StateConfig& state) {
  v.choice("policy", StatePolicy::zero,
           "recurrent state that a sequence starts from; zero; passed: what the previous segment of the document left; "
           "passed_with_gradient: the same, and the gradient reaches that segment; noise: N(0, noise_std^2)",
           state.policy,
           Choices<StatePolicy>{{"zero", StatePolicy::zero},
                                {"passed", StatePolicy::passed},
                                {"passed_with_gradient", StatePolicy::passed_with_gradient},
                                {"noise", StatePolicy::noise}});
  v.number({"noise_std", 0.1, 0, 1e6, "standard deviation of noise"}, state.noise_std);
  v.number({"probability", 1, 0, 1, "that a sequence follows the policy; else it starts from zero"}, state.probability);
}

template <class Visitor>
void visit_optimizer(Visitor& v, OptimizerConfig& o) {
  v.section("muon", [&] {
    v.number({"lr", 2e-3, 0, kMaxRate, "peak learning rate of the matrices inside layers"}, o.muon.lr);
    v.number({"momentum", 0.95, 0, 1, "decay of the momentum"}, o.muon.momentum);
    v.number({"weight_decay", 0.1, 0, kMaxRate, "decoupled weight decay"}, o.muon.weight_decay);
    v.boolean("nesterov", true, "Nesterov momentum", o.muon.nesterov);
  });
  v.section("adamw", [&] {
    v.number({"lr", 2e-3, 0, kMaxRate, "peak learning rate of embedding, head and vectors"}, o.adamw.lr);
    v.number({"beta1", 0.9, 0, 1, "decay of the first moment"}, o.adamw.beta1);
    v.number({"beta2", 0.95, 0, 1, "decay of the second moment"}, o.adamw.beta2);
    v.number({"eps", 1e-8, 1e-30, 1, "added to the root of the second moment"}, o.adamw.eps);
    v.number({"weight_decay", 0.1, 0, kMaxRate, "decoupled weight decay; never of A_log and dt_bias"},
             o.adamw.weight_decay);
  });
  v.number({"clip_norm", 1, 0, 1e9, "norm that the whole gradient is scaled down to; 0: not clipped"}, o.clip_norm);
  v.number({"qk_clip", 100, 0, 1e9, "tau: largest attention logit of an MLA head before its weights shrink; 0: off"},
           o.qk_clip);
  v.number({"router_bias_rate", 1e-3, 0, 1, "step of the router bias towards equal load of the experts; 0: off"},
           o.router_bias_rate);
  v.number({"z_loss", 0, 0, 1, "weight of the squared log of the softmax's sum in the loss"}, o.z_loss);
}

template <class Visitor>
void visit_schedule(Visitor& v, TrainConfigDraft& d) {
  ScheduleConfig& s = d.config.schedule;
  v.choice(
      "kind", ScheduleKind::wsd,
      "learning rate after the warm-up; constant; cosine: half a cosine to final_ratio; wsd: constant, then linear "
      "to final_ratio",
      s.kind,
      Choices<ScheduleKind>{
          {"wsd", ScheduleKind::wsd}, {"cosine", ScheduleKind::cosine}, {"constant", ScheduleKind::constant}});
  v.derived("steps", "required", "updates of the whole run (or give tokens)", d.steps, int64_t{1}, kMaxSteps);
  v.derived("tokens", "none", "tokens of the whole run, rounded up to steps", d.schedule_tokens, int64_t{1},
            kMaxTokens);
  v.derived("warmup_steps", "2 % of steps", "steps of linear warm-up", d.warmup_steps, int64_t{0}, kMaxSteps);
  v.derived("decay_fraction", "0.2", "share of the steps that wsd decays in (or give decay_steps)", d.decay_fraction,
            0.0, 1.0);
  v.derived("decay_steps", "none", "steps that wsd decays in", d.decay_steps, int64_t{0}, kMaxSteps);
  v.number({"final_ratio", 0, 0, 1, "learning rate at the end as a share of the peak"}, s.final_ratio);
}

template <class Visitor>
void visit_checkpoint(Visitor& v, CheckpointConfig& c) {
  constexpr OnResume kFree = OnResume::may_change;
  v.path({"folder", nullptr, "where checkpoints, log.jsonl and report.html go; of several runs: in a folder of each",
          kFree},
         c.folder);
  v.integer({"every_steps", 1000, 0, kMaxSteps, "steps between checkpoints; 0: not by steps", kFree}, c.every_steps);
  v.number({"every_minutes", 0, 0, 1e6, "minutes between checkpoints; 0: not by time", kFree}, c.every_minutes);
  v.integer({"keep", 2, 1, 1 << 20, "checkpoints that stay; older ones are removed", kFree}, c.keep);
}

template <class Visitor>
void visit_evaluation(Visitor& v, EvaluationConfig& e) {
  constexpr OnResume kFree = OnResume::may_change;
  v.integer({"every_steps", 250, 0, kMaxSteps, "steps between evaluations; 0: never", kFree}, e.every_steps);
  v.integer({"tokens", 65536, 1, kMaxTokens, "tokens of one evaluation, the same each time", kFree}, e.tokens);
  v.choice("split", Split::held_out, "held-out or train: the documents to evaluate on", e.split,
           Choices<Split>{{"held-out", Split::held_out}, {"train", Split::train}}, kFree);
}

template <class Visitor>
void visit_fields(Visitor& v, TrainConfigDraft& d) {
  constexpr OnResume kFree = OnResume::may_change;
  TrainConfig& c = d.config;
  v.models(c.runs);
  v.integer({"seed", 0, 0, std::numeric_limits<int64_t>::max(), "of fresh weights and of what is drawn in training"},
            c.seed);
  v.choice("precision", DType::bf16, "bf16 or f32: of the matrix products; parameters, gradients and sums are f32",
           c.precision, Choices<DType>{{"bf16", DType::bf16}, {"f32", DType::f32}});
  v.section("data", [&] { visit_data(v, d); });
  v.section("state", [&] { visit_state(v, c.state); });
  v.section("optimizer", [&] { visit_optimizer(v, c.optimizer); });
  v.section("schedule", [&] { visit_schedule(v, d); });
  v.section("checkpoint", [&] { visit_checkpoint(v, c.checkpoint); });
  v.section("evaluation", [&] { visit_evaluation(v, c.evaluation); });
  v.choice("recompute", Recompute::none,
           "none; layer: all of a layer is computed again in the backward pass, from its input, in place of being kept",
           c.recompute, Choices<Recompute>{{"none", Recompute::none}, {"layer", Recompute::layer}}, kFree);
  v.integer({"threads", 0, 0, 4096, "0: one for each core", kFree}, c.threads);
  v.number(
      {"spike_factor", 3, 0, 1e9,
       "a loss beyond this many times the mean of the last steps stops the run; 0: only one that is not finite", kFree},
      c.spike_factor);
  v.integer({"stop_step", 0, 0, kMaxSteps, "save and end at this step of the schedule; 0: at its end", kFree},
            c.stop_step);
}

}  // namespace linnet::train
