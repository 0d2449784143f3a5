// /metrics: what the scheduler and the server count, for Prometheus.
#include <fstream>
#include <string>

#include "server/routes.h"

namespace linnet::server {
namespace {

// Bytes of this process in memory: field 2 of statm, in pages of 4 KiB on x86-64.
double resident_bytes() {
  double total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * 4096;
}

}  // namespace

void answer_metrics(Service& service, Call& call) {
  const runtime::SchedulerStats s = service.scheduler.stats();
  const auto value = [](auto number) { return static_cast<double>(number); };
  const std::string text = service.metrics.text({
      {"linnet_requests_running", "Requests that have their place.", "gauge", value(s.running)},
      {"linnet_requests_waiting", "Requests that wait for a place.", "gauge", value(s.waiting)},
      {"linnet_sequences_running", "Choices of the running requests.", "gauge", value(s.sequences)},
      {"linnet_requests_refused_total", "Requests refused because there was no room.", "counter", value(s.refused)},
      {"linnet_tokens_read_total", "Tokens computed in passes over prompts.", "counter", value(s.tokens_read)},
      {"linnet_tokens_settled_total", "Of these, tokens of replies read once more for the cache.", "counter",
       value(s.tokens_settled)},
      {"linnet_prefill_passes_total", "Passes over prompts.", "counter", value(s.prefill_passes)},
      {"linnet_decode_passes_total", "Passes of one token a sequence.", "counter", value(s.decode_passes)},
      {"linnet_prefill_seconds_total", "Time in passes over prompts.", "counter", s.prefill_seconds},
      {"linnet_decode_seconds_total", "Time in passes of one token a sequence.", "counter", s.decode_seconds},
      {"linnet_state_limit_bytes", "Memory for states and the prefix cache.", "gauge", value(s.bytes_limit)},
      {"linnet_state_reserved_bytes", "Of it, promised to requests.", "gauge", value(s.bytes_reserved)},
      {"linnet_state_cached_bytes", "Of it, held by the prefix cache.", "gauge", value(s.bytes_cached)},
      {"linnet_cache_hits_total", "Prompts that found a beginning in the prefix cache.", "counter",
       value(s.cache_hits)},
      {"linnet_cache_misses_total", "Prompts that found none.", "counter", value(s.cache_misses)},
      {"linnet_cache_tokens_total", "Tokens that hits did not have to read.", "counter", value(s.cache_tokens)},
      {"linnet_cache_entries", "States in the prefix cache.", "gauge", value(s.cache_entries)},
      {"linnet_cache_evictions_total", "States that left it for lack of room.", "counter", value(s.cache_evictions)},
      {"linnet_connections", "Open connections.", "gauge", value(service.n_connections())},
      {"linnet_resident_bytes", "Memory of the process.", "gauge", resident_bytes()},
  });
  call.respond({.content_type = "text/plain; version=0.0.4", .body = text});
}

}  // namespace linnet::server
