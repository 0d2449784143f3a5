#include "runtime/constraint/grammar.h"

#include <queue>
#include <tuple>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::runtime {
namespace {

using Node = Grammar::Node;
using Completion = Grammar::Completion;

// Shortest completions by Knuth's generalisation of Dijkstra's algorithm: nodes become final in order of their bytes, and an edge
// offers a way as soon as all nodes it leads through are final.
class Shortest {
 public:
  explicit Shortest(const Grammar& grammar)
      : grammar_(grammar), users_(grammar.n_nodes()), best_(grammar.n_nodes(), {Grammar::kNever, Grammar::kNever}) {
    for (Node from = 0; from < grammar.n_nodes(); ++from)
      for (const Grammar::Edge& edge : grammar.edges(from)) {
        users_[edge.to].push_back({from, &edge});
        if (edge.kind == Grammar::Kind::call && edge.callee != edge.to) users_[edge.callee].push_back({from, &edge});
      }
  }

  std::vector<Completion> run() {
    std::vector<bool> final(grammar_.n_nodes());
    offer(Grammar::kEnd, 0, 0);
    while (!queue_.empty()) {
      const Node node = std::get<2>(queue_.top());
      queue_.pop();
      if (final[node]) continue;
      final[node] = true;
      for (const auto& [from, edge] : users_[node]) {
        const Completion& to = best_[edge->to];
        if (edge->kind != Grammar::Kind::call) {
          offer(from, to.bytes + (edge->kind == Grammar::Kind::bytes), to.height);
        } else if (final[edge->to] && final[edge->callee]) {
          const Completion& callee = best_[edge->callee];
          offer(from, to.bytes + callee.bytes, std::max(to.height, callee.height + 1));
        }
      }
    }
    return std::move(best_);
  }

 private:
  struct User {
    Node from;
    const Grammar::Edge* edge;
  };

  void offer(Node node, uint32_t bytes, uint32_t height) {
    if (bytes > Grammar::kMaxShortest || height > Grammar::kMaxHeight) return;
    Completion& best = best_[node];
    if (std::tie(bytes, height) >= std::tie(best.bytes, best.height)) return;
    best = {bytes, height};
    queue_.emplace(bytes, height, node);
  }

  const Grammar& grammar_;
  std::vector<std::vector<User>> users_;  // edges that lead through a node
  std::vector<Completion> best_;
  std::priority_queue<std::tuple<uint32_t, uint32_t, Node>, std::vector<std::tuple<uint32_t, uint32_t, Node>>,
                      std::greater<>>
      queue_;
};

}  // namespace

Node Grammar::add_node() {
  if (edges_.size() == kMaxNodes)
    throw Unsupported(
        cat("expected a schema of at most ", kMaxNodes, " states, got more (long names, lengths or counts)"));
  edges_.emplace_back();
  return static_cast<Node>(edges_.size() - 1);
}

void Grammar::add(Node from, Edge edge) {
  if (++n_edges_ > kMaxEdges)
    throw Unsupported(cat("expected a schema of at most ", kMaxEdges, " transitions, got more"));
  edges_[from].push_back(edge);
}

Node Grammar::read(Node from, std::string_view text) {
  for (char c : text) {
    const Node to = add_node();
    read(from, static_cast<uint8_t>(c), static_cast<uint8_t>(c), to);
    from = to;
  }
  return from;
}

void Grammar::read_to(Node from, std::string_view text, Node to) {
  const auto last = static_cast<uint8_t>(text.back());
  read(read(from, text.substr(0, text.size() - 1)), last, last, to);
}

void Grammar::finish(Node start) {
  start_ = start;
  completion_ = Shortest(*this).run();
  if (dead(start))
    throw FormatError(cat("expected a schema that allows a text of at most ", kMaxShortest, " bytes and ",
                          kMaxHeight - 2, " levels, got one that allows none"));
}

}  // namespace linnet::runtime
