// Grammar: a recursive transition network over bytes. A rule is the node where it begins; a node has edges that read a byte,
// go on for nothing, or call a rule and go on behind it. Every rule ends at kEnd.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace linnet::runtime {

class Grammar {
 public:
  using Node = uint32_t;
  static constexpr Node kEnd = 0;               // the end of whichever rule runs; has no edges
  static constexpr size_t kMaxNodes = 1 << 16;  // what a schema may expand to
  static constexpr size_t kMaxEdges = 1 << 19;
  static constexpr uint32_t kMaxHeight =
      66;  // rules that are open at once: 64 levels of nesting, and what a leaf needs
  // Bytes from here on are in no UTF-8. A grammar reads them for special tokens: each token one byte (Constraint::Terminal).
  static constexpr uint8_t kFirstTerminal = 0xf8;
  static constexpr uint32_t kMaxShortest = 1 << 16;  // bytes of the shortest text

  enum class Kind : uint8_t { bytes, skip, call };
  struct Edge {
    Node to;            // behind what was read or called
    Node callee;        // call: the rule
    uint8_t low, high;  // bytes: the range, ends included
    Kind kind;
  };

  // The shortest way from a node to the end of its rule: its bytes, and how many rules are open on it at once beside this one.
  struct Completion {
    uint32_t bytes, height;
  };
  static constexpr uint32_t kNever = UINT32_MAX;  // bytes where there is no way

  Grammar() : edges_(1) {}

  // Building. Throws Unsupported when the grammar gets too large.
  Node add_node();
  void read(Node from, uint8_t low, uint8_t high, Node to) { add(from, {to, kEnd, low, high, Kind::bytes}); }
  void skip(Node from, Node to) { add(from, {to, kEnd, 0, 0, Kind::skip}); }
  void call(Node from, Node callee, Node to) { add(from, {to, callee, 0, 0, Kind::call}); }
  Node read(Node from, std::string_view text);              // through new nodes; returns the last
  void read_to(Node from, std::string_view text, Node to);  // text not empty
  Node called(Node from, Node callee) {                     // returns the node behind the call
    const Node to = add_node();
    call(from, callee, to);
    return to;
  }

  // Ends building: computes completions. Throws FormatError when `start` has no text, Unsupported when the shortest is too long.
  void finish(Node start);

  Node start() const { return start_; }
  std::span<const Edge> edges(Node node) const { return edges_[node]; }
  const Completion& completion(Node node) const { return completion_[node]; }
  bool dead(Node node) const { return completion_[node].bytes == kNever; }
  size_t n_nodes() const { return edges_.size(); }

 private:
  void add(Node from, Edge edge);

  std::vector<std::vector<Edge>> edges_;
  std::vector<Completion> completion_;
  size_t n_edges_ = 0;
  Node start_ = kEnd;
};

}  // namespace linnet::runtime
