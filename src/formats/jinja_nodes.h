// The parsed template: expressions that evaluate and statements that render.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/jinja_context.h"

namespace linnet::formats::jinja {

struct Place {
  int line = 0, column = 0;  // from 1
};

struct Node {
  Place place;
  virtual ~Node() = default;
};

// ---- expressions ----

struct Expression : Node {
  int height = 1;  // of the tree below it; bounded by the parser

  // evaluate() = what eval() gives, within the limits of depth and work; a Fault becomes an error with this node's place.
  Value evaluate(Context&, const Scope&) const;

 private:
  virtual Value eval(Context&, const Scope&) const = 0;
};
using ExpressionPtr = std::unique_ptr<Expression>;

struct Constant final : Expression {
  Value value;
  Value eval(Context&, const Scope&) const override { return value; }
};
struct Name final : Expression {
  std::string name;
  Value eval(Context&, const Scope&) const override;
};
struct ListDisplay final : Expression {
  std::vector<ExpressionPtr> items;
  bool tuple = false;
  Value eval(Context&, const Scope&) const override;
};
struct DictDisplay final : Expression {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> items;
  Value eval(Context&, const Scope&) const override;
};
struct Attribute final : Expression {
  ExpressionPtr object;
  std::string name;
  Value eval(Context&, const Scope&) const override;
};
struct Subscript final : Expression {
  ExpressionPtr object, key;
  Value eval(Context&, const Scope&) const override;
};
struct Slice final : Expression {
  ExpressionPtr object, start, stop, step;  // the last three may be absent
  Value eval(Context&, const Scope&) const override;
};

struct Arguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  Args evaluate(Context&, const Scope&) const;
};
struct Call final : Expression {
  ExpressionPtr callee;
  Arguments arguments;
  Value eval(Context&, const Scope&) const override;
};
struct FilterCall final : Expression {
  ExpressionPtr input;
  Filter filter = nullptr;
  Arguments arguments;
  Value eval(Context&, const Scope&) const override;
};
struct TestCall final : Expression {
  ExpressionPtr input;
  Test test = nullptr;
  Arguments arguments;
  bool negated = false;
  Value eval(Context&, const Scope&) const override;
};

enum class UnaryOp { plus, minus, not_ };
struct Unary final : Expression {
  UnaryOp op{};
  ExpressionPtr operand;
  Value eval(Context&, const Scope&) const override;
};
enum class BinaryOp { add, subtract, multiply, divide, floor_divide, modulo, power };
struct Binary final : Expression {
  BinaryOp op{};
  ExpressionPtr left, right;
  Value eval(Context&, const Scope&) const override;
};
struct Concatenation final : Expression {  // a ~ b ~ c
  std::vector<ExpressionPtr> parts;
  Value eval(Context&, const Scope&) const override;
};
enum class CompareOp { eq, ne, lt, le, gt, ge, in, not_in };
struct Comparison final : Expression {  // a < b <= c
  ExpressionPtr first;
  std::vector<std::pair<CompareOp, ExpressionPtr>> rest;
  Value eval(Context&, const Scope&) const override;
};
struct Logical final : Expression {  // and, or: the operand that decides
  bool is_or = false;
  ExpressionPtr left, right;
  Value eval(Context&, const Scope&) const override;
};
struct Conditional final : Expression {  // value if condition else otherwise
  ExpressionPtr value, condition, otherwise;
  Value eval(Context&, const Scope&) const override;
};

// ---- statements ----

enum class Flow { next, break_, continue_ };

struct Statement : Node {
  Flow run(Context&, Scope&, Text& out) const;  // to render() as evaluate() is to eval()

 private:
  virtual Flow render(Context&, Scope&, Text& out) const = 0;
};
using StatementPtr = std::unique_ptr<Statement>;
using Block = std::vector<StatementPtr>;
Flow run_block(const Block& block, Context&, Scope&, Text& out);

struct Data final : Statement {
  Text text;
  Flow render(Context&, Scope&, Text& out) const override;
};
struct Output final : Statement {
  ExpressionPtr value;
  Flow render(Context&, Scope&, Text& out) const override;
};
struct If final : Statement {
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  Block otherwise;
  Flow render(Context&, Scope&, Text& out) const override;
};
// One name, or several that a list is spread over.
struct Targets {
  std::vector<std::string> names;
  bool spread = false;
  void assign(Scope& scope, const Value& value) const;
};
struct For final : Statement {
  Targets targets;
  ExpressionPtr items, condition;  // condition may be absent
  Block body, otherwise;
  Flow render(Context&, Scope&, Text& out) const override;
};
struct Set final : Statement {
  Targets targets;
  ExpressionPtr value;
  Flow render(Context&, Scope&, Text& out) const override;
};
struct SetAttribute final : Statement {  // set namespace.name = value
  std::string object, name;
  ExpressionPtr value;
  Flow render(Context&, Scope&, Text& out) const override;
};
struct SetBlock final : Statement {
  std::string name;
  Block body;
  Flow render(Context&, Scope&, Text& out) const override;
};
struct Macro final : Statement {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // default may be absent
  Block body;
  Flow render(Context&, Scope&, Text& out) const override;
};
struct LoopControl final : Statement {
  Flow flow{};
  Flow render(Context&, Scope&, Text&) const override { return flow; }
};
struct Group final : Statement {  // generation ... endgeneration: marks text for training, renders as its body
  Block body;
  Flow render(Context& c, Scope& s, Text& out) const override { return run_block(body, c, s, out); }
};

}  // namespace linnet::formats::jinja
