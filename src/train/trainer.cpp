#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/rng.h"
#include "core/text.h"
#include "model/parameter_counts.h"
#include "ops/optim/optim.h"

namespace linnet::train {
namespace {

constexpr uint64_t kStateStream = 0x57a7e;  // of the run's random numbers: initial states
constexpr double kUsualLossDecay = 0.95;
constexpr int64_t kSpikeWarmup = 20;  // steps before the alarm is armed

int64_t per_sequence_bytes(const std::vector<model::StateSpec>& specs) {
  int64_t bytes = 0;
  for (const model::StateSpec& s : specs)
    if (s.lifetime == model::Lifetime::per_sequence)
      bytes += static_cast<int64_t>(aligned_size(static_cast<size_t>(s.bytes())));
  return bytes;
}

bool passes_state(StatePolicy policy) {
  return policy == StatePolicy::passed || policy == StatePolicy::passed_with_gradient;
}

std::string documents_text(const std::vector<Batch>& batches) {
  std::string text;
  int64_t n = 0;
  for (const Batch& batch : batches)
    for (const Batch::Sequence& s : batch.sequences)
      if (++n <= 8) text += cat(text.empty() ? "" : ", ", s.document);
  return n <= 8 ? text : cat(text, " and ", n - 8, " more");
}

}  // namespace

Trainer::Trainer(const TrainConfig& config, const RunConfig& run, const TokenShards& shards, int32_t marker,
                 ThreadPool& pool)
    : config_(config),
      shards_(shards),
      pool_(pool),
      scratch_(physical_memory_bytes()),
      tape_(physical_memory_bytes()),
      model_(run.model.config, DType::f32),
      parameters_(model_, config.precision),
      batches_(shards, config.data, config.state.policy, marker),
      marker_(marker) {
  if (run.model.start.empty())
    parameters_.initialize(run.model.config.initializer_range, static_cast<uint64_t>(config.seed));
  else parameters_.load(formats::Checkpoint::open(run.model.start));
  model_.prepare();
  parameters_.refresh({pool_, scratch_});
  const model::ParameterCounts counts = model::count_parameters(model_);
  flops_per_token_ = 6 * static_cast<double>(counts.total.active_parameters -
                                             counts.of(model::ParameterGroup::embedding).active_parameters);
  if (run.model.config.tie_embeddings)
    flops_per_token_ += 6 * static_cast<double>(run.model.config.vocab_size * run.model.config.hidden);
  for (const auto& specs : model_.state_specs()) {
    working_bytes_ = std::max(working_bytes_, per_sequence_bytes(specs));
    lane_bytes_ += per_sequence_bytes(specs);
  }
  if (passes_state(config.state.policy)) lane_states_ = Buffer(static_cast<size_t>(batches_.n_lanes() * lane_bytes_));
}

StepResult Trainer::step() {
  const auto start = std::chrono::steady_clock::now();
  StepResult result{.step = step_ + 1};
  const std::vector<Batch> batches = next_batches();
  for (const Batch& batch : batches) result.tokens += batch.n_tokens(), result.scored += batch.n_scored;
  const float scale = result.scored > 0 ? 1 / static_cast<float>(result.scored) : 0;

  {
    const Trace::Scope scope("clear gradients");
    parameters_.zero_gradients({pool_, scratch_});
  }
  std::vector<float> nll;
  for (size_t i = 0; i < batches.size(); ++i) {
    run_batch(batches[i], static_cast<int64_t>(i), scale, false, nll);
    for (float value : nll) result.loss += static_cast<double>(value);
  }
  if (result.scored > 0) result.loss /= static_cast<double>(result.scored);

  result.grad_norm = checked_norm(batches, result.loss);
  result.rate_factor = learning_rate_factor(config_.schedule, result.step);
  const double clip = config_.optimizer.clip_norm;
  update(clip > 0 && result.grad_norm > clip ? clip / result.grad_norm : 1, result.rate_factor);
  result.parts = model_.after_step({.qk_clip_tau = static_cast<float>(config_.optimizer.qk_clip),
                                    .router_bias_rate = static_cast<float>(config_.optimizer.router_bias_rate)});
  {
    const Trace::Scope scope("weight copies");
    parameters_.refresh({pool_, scratch_});
  }

  ++step_;
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  usual_loss_ = step_ == 1 ? result.loss : kUsualLossDecay * usual_loss_ + (1 - kUsualLossDecay) * result.loss;
  return result;
}

std::vector<Batch> Trainer::next_batches() {
  const Trace::Scope scope("batches");
  return batches_.next_step();
}

Evaluation Trainer::evaluate() {
  Evaluation evaluation;
  const Split split = config_.evaluation.split;
  std::vector<float> nll;
  for (const Batch& batch : evaluation_batches(shards_, split, config_.data, config_.evaluation.tokens, marker_)) {
    run_batch(batch, 0, 0, true, nll);
    for (float value : nll) evaluation.loss += static_cast<double>(value);
    evaluation.tokens += batch.n_scored;
  }
  if (evaluation.tokens == 0) return evaluation;
  evaluation.loss /= static_cast<double>(evaluation.tokens);
  const double tokens_per_byte =
      static_cast<double>(shards_.n_tokens(split)) / static_cast<double>(std::max<int64_t>(1, shards_.n_bytes(split)));
  evaluation.bits_per_byte = evaluation.loss / std::log(2.0) * tokens_per_byte;
  return evaluation;
}

// nll [N]: of each token, 0 where it is not scored.
void Trainer::run_batch(const Batch& batch, int64_t index, float scale, bool forward_only, std::vector<float>& nll) {
  const int64_t N = batch.n_tokens();
  const Exec exec{pool_, scratch_};
  const Workspace::Scope scope(scratch_);
  nll.resize(static_cast<size_t>(N));
  n_past_.assign(batch.sequences.size(), 0);
  const auto ints = [](const std::vector<int32_t>& v) {
    return ConstTensor::of(v.data(), {static_cast<int64_t>(v.size())});
  };
  model::Pass pass;
  pass.ids = ints(batch.ids), pass.seq_start = ints(batch.seq_start),
  pass.attention_start = ints(batch.attention_start);
  pass.n_past = n_past_;
  place_states(batch, index, forward_only, pass);
  model_.train(pass,
               {.target = ints(batch.target),
                .weight = {},
                .nll = Tensor::of(nll.data(), {N}),
                .scale = scale,
                .z_loss = static_cast<float>(config_.optimizer.z_loss),
                .forward_only = forward_only},
               config_.recompute, tape_, exec);
}

// Memory for the states of the pass: the layers share it, except that the states with which rows end go to their lanes when the
// next step goes on from them. What the sequences start from is copied first: it may lie in a lane that is written.
void Trainer::place_states(const Batch& batch, int64_t index, bool forward_only, model::Pass& pass) {
  const size_t B = batch.sequences.size(), n_layers = model_.state_specs().size();
  const Trace::Scope scope("states");
  const StatePolicy policy = forward_only ? StatePolicy::zero : config_.state.policy;
  const Rng rng(static_cast<uint64_t>(config_.seed) ^ kStateStream, static_cast<uint64_t>(step_ * 4096 + index));
  const int64_t start_bytes = policy == StatePolicy::zero ? 0 : lane_bytes_;
  std::byte* working = scratch_.take<std::byte>(static_cast<int64_t>(B) * working_bytes_);
  std::byte* start = scratch_.take<std::byte>(static_cast<int64_t>(B) * start_bytes);

  states_.assign(n_layers * B, {}), initial_.assign(policy == StatePolicy::zero ? 0 : n_layers * B, {});
  for (size_t b = 0; b < B; ++b) {
    const Batch::Sequence& seq = batch.sequences[b];
    const bool follows = policy != StatePolicy::zero && rng.uniform(b) < config_.state.probability;
    std::byte* lane = passes_state(policy) ? lane_states_.data() + seq.lane * lane_bytes_ : nullptr;
    std::byte* own_start = start + static_cast<int64_t>(b) * start_bytes;
    if (follows && lane && seq.continues) std::memcpy(own_start, lane, static_cast<size_t>(start_bytes));
    else std::memset(own_start, 0, static_cast<size_t>(start_bytes));

    int64_t in_lane = 0;
    for (size_t layer = 0; layer < n_layers; ++layer) {
      const std::vector<model::StateSpec>& specs = model_.state_specs()[layer];
      int64_t in_layer = 0;
      for (size_t i = 0; i < specs.size(); ++i) {
        if (specs[i].lifetime != model::Lifetime::per_sequence) continue;
        const bool kept = lane && seq.ends_row;
        states_[layer * B + b][i].data =
            kept ? lane + in_lane : working + static_cast<int64_t>(b) * working_bytes_ + in_layer;
        if (!initial_.empty()) initial_[layer * B + b][i].data = own_start + in_lane;
        if (follows && policy == StatePolicy::noise && std::strcmp(specs[i].name, "recurrent") == 0)
          draw_noise(own_start + in_lane, specs[i].bytes(), Rng(rng.bits(b), layer));
        const auto bytes = static_cast<int64_t>(aligned_size(static_cast<size_t>(specs[i].bytes())));
        in_layer += bytes, in_lane += bytes;
      }
    }
  }
  pass.states = states_, pass.initial = initial_;
}

void Trainer::draw_noise(std::byte* state, int64_t bytes, Rng rng) const {
  float* values = reinterpret_cast<float*>(state);
  for (int64_t i = 0; i < bytes / 4; ++i) values[i] = static_cast<float>(config_.state.noise_std * rng.normal());
}

double Trainer::checked_norm(const std::vector<Batch>& batches, double loss) const {
  const Trace::Scope scope("gradient norm");
  const auto diverged = [&](const std::string& what) {
    return Diverged(cat("step ", step_ + 1, ": ", what, "; the batch holds documents ", documents_text(batches)));
  };
  if (!std::isfinite(loss)) throw diverged(cat("loss: expected a finite number, got ", loss));
  if (config_.spike_factor > 0 && step_ >= kSpikeWarmup && loss > config_.spike_factor * usual_loss_)
    throw diverged(
        cat("loss: expected at most ", config_.spike_factor, " times the usual ", usual_loss_, ", got ", loss));
  Workspace none;
  std::vector<ConstTensor> gradients;
  for (const Parameter& p : parameters_.all()) gradients.push_back(p.grad);
  const std::vector<double> squares = ops::sums_of_squares(gradients, {pool_, none});
  double sum = 0;
  for (size_t i = 0; i < squares.size(); ++i) {
    const model::TensorRow& row = *parameters_.all()[i].row;
    if (!std::isfinite(squares[i]))
      throw diverged(cat("gradient of ", row.name, ": expected finite numbers, got ", squares[i]));
    if (row.group != model::OptimizerGroup::frozen) sum += squares[i];
  }
  return std::sqrt(sum);
}

void Trainer::update(double grad_scale, double rate_factor) {
  const Exec exec{pool_, scratch_};
  const MuonConfig& muon = config_.optimizer.muon;
  const AdamWConfig& adamw = config_.optimizer.adamw;
  std::vector<ops::MuonMatrix> matrices;
  for (const Parameter& p : parameters_.all()) {
    if (p.row->group == model::OptimizerGroup::frozen) continue;
    if (p.row->group == model::OptimizerGroup::muon) {
      matrices.push_back({.w = p.master, .m = p.first, .grad = p.grad});
      continue;
    }
    const bool decays = p.row->group == model::OptimizerGroup::adamw;
    apply("adamw", ops::plan_adamw,
          {.w = p.master,
           .m = p.first,
           .v = p.second,
           .grad = p.grad,
           .lr = static_cast<float>(adamw.lr * rate_factor),
           .beta1 = static_cast<float>(adamw.beta1),
           .beta2 = static_cast<float>(adamw.beta2),
           .eps = static_cast<float>(adamw.eps),
           .weight_decay = decays ? static_cast<float>(adamw.weight_decay) : 0,
           .grad_scale = static_cast<float>(grad_scale),
           .step = step_ + 1},
          exec);
  }
  apply("muon", ops::plan_muon,
        {.matrices = matrices,
         .lr = static_cast<float>(muon.lr * rate_factor),
         .momentum = static_cast<float>(muon.momentum),
         .weight_decay = static_cast<float>(muon.weight_decay),
         .grad_scale = static_cast<float>(grad_scale),
         .nesterov = muon.nesterov,
         .compute = config_.precision},
        exec);
}

}  // namespace linnet::train
