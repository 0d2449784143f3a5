// Variants: the implementations of one op, and how one is chosen. An op's table is an array of Variant<Args>, best first.
#pragma once

#include <span>
#include <string>
#include <type_traits>

#include "core/cpu_features.h"
#include "core/errors.h"
#include "core/exec.h"
#include "core/text.h"
#include "core/trace.h"

namespace linnet {

template <class Args>
struct Variant {
  const char* name;                                       // the suffix of its file: "ref", "simd", "amx", ...
  Isa needs;                                              // lowest instruction set it runs on
  std::string (*refusal)(const Args&);                    // why these arguments cannot run here; empty when they can
  size_t (*workspace_bytes)(const Args&, int n_threads);  // scratch; monotone in every extent and in n_threads
  void (*run)(const Args&, const Exec&) noexcept;         // allocates nothing, reads no environment
};

template <class Args>
std::string no_refusal(const Args&) {
  return {};
}
template <class Args>
size_t no_workspace(const Args&, int) {
  return 0;
}

template <class Args>
class Plan {
 public:
  explicit Plan(const Variant<Args>& v) : variant_(&v) {}
  const char* variant() const { return variant_->name; }
  size_t workspace_bytes(const Args& a, int n_threads) const { return variant_->workspace_bytes(a, n_threads); }
  void run(const Args& a, const Exec& exec) const noexcept { variant_->run(a, exec); }

 private:
  const Variant<Args>* variant_;
};

// The first variant that runs on `isa` and does not refuse. Throws Unsupported with every variant's reason.
// References are not in the tables: they are called by name, never chosen.
template <class Args>
Plan<Args> choose_variant(const char* op, std::span<const Variant<Args>> table, const Args& args,
                          Isa isa = active_isa()) {
  for (const Variant<Args>& v : table)
    if (isa >= v.needs && v.refusal(args).empty()) return Plan<Args>(v);
  std::string reasons;  // apart: a pass plans hundreds of times, and text costs more than the rest of a plan
  for (const Variant<Args>& v : table) {
    const std::string reason =
        isa < v.needs ? cat("needs ", name_of(v.needs), ", have ", name_of(isa)) : v.refusal(args);
    reasons += cat(reasons.empty() ? " " : "; ", v.name, ": ", reason);
  }
  throw Unsupported(cat(op, ": no variant:", reasons));
}

// Plans and runs in one call, under a name for the Trace: apply("norms", ops::plan_rms_norm, {.x = .., .y = ..}, exec). Throws what
// planning throws.
template <class Args>
void apply(const char* name, Plan<Args> (*plan)(const Args&, Isa), const std::type_identity_t<Args>& args,
           const Exec& exec) {
  const Trace::Scope scope(name);
  plan(args, active_isa()).run(args, exec);
}

}  // namespace linnet
