#include "formats/jinja_expression_parser.h"

namespace linnet::formats::jinja {

ExpressionPtr ExpressionParser::expression() {
  const Nesting nesting(*this);
  ExpressionPtr value = logical(true);
  while (next_is(Kind::name, U"if")) {
    auto node = make<Conditional>(take());
    adopt(*node, node->value, std::move(value));
    adopt(*node, node->condition, logical(true));
    if (accept_name(U"else")) adopt(*node, node->otherwise, expression());
    value = std::move(node);
  }
  return value;
}

// One expression, or several with commas between them: a tuple.
ExpressionPtr ExpressionParser::expressions(bool with_condition) {
  const Token& start = peek();
  ExpressionPtr first = with_condition ? expression() : logical(true);
  if (!next_is(Kind::op, U",")) return first;
  auto tuple = make<ListDisplay>(start);
  tuple->tuple = true;
  add(tuple->items, *tuple, std::move(first));
  while (accept_op(U",") && starts_expression())
    add(tuple->items, *tuple, with_condition ? expression() : logical(true));
  return tuple;
}

bool ExpressionParser::starts_expression() const {
  const Token& token = peek();
  if (token.kind == Kind::op) return TextView(U"([{+-").find(token.text) != TextView::npos;
  return token.kind == Kind::name ? token.text != U"in" : token.kind >= Kind::string && token.kind <= Kind::real;
}

ExpressionPtr ExpressionParser::logical(bool is_or) {
  ExpressionPtr left = is_or ? logical(false) : negation();
  while (next_is(Kind::name, is_or ? U"or" : U"and")) {
    auto node = make<Logical>(take());
    node->is_or = is_or;
    adopt(*node, node->left, std::move(left));
    adopt(*node, node->right, is_or ? logical(false) : negation());
    left = std::move(node);
  }
  return left;
}

ExpressionPtr ExpressionParser::negation() {
  if (!next_is(Kind::name, U"not")) return comparison();
  const Nesting nesting(*this);
  auto node = make<Unary>(take());
  node->op = UnaryOp::not_;
  adopt(*node, node->operand, negation());
  return node;
}

std::optional<CompareOp> ExpressionParser::compare_op() {
  static const std::pair<TextView, CompareOp> kOps[] = {{U"==", CompareOp::eq}, {U"!=", CompareOp::ne},
                                                        {U"<", CompareOp::lt},  {U"<=", CompareOp::le},
                                                        {U">", CompareOp::gt},  {U">=", CompareOp::ge}};
  for (const auto& [text, op] : kOps) {
    if (accept_op(text)) return op;
  }
  if (accept_name(U"in")) return CompareOp::in;
  if (next_is(Kind::name, U"not") && peek(1).is(Kind::name, U"in")) {
    take(), take();
    return CompareOp::not_in;
  }
  return std::nullopt;
}

ExpressionPtr ExpressionParser::comparison() {
  const Token& start = peek();
  ExpressionPtr first = sum();
  auto node = make<Comparison>(start);
  while (const auto op = compare_op()) {
    node->rest.emplace_back(*op, sum());
    grow(*node, *node->rest.back().second);
  }
  if (node->rest.empty()) return first;
  adopt(*node, node->first, std::move(first));
  return node;
}

std::optional<BinaryOp> ExpressionParser::binary_op(int rank) {
  static const std::tuple<int, TextView, BinaryOp> kOps[] = {
      {0, U"+", BinaryOp::add},    {0, U"-", BinaryOp::subtract},      {1, U"*", BinaryOp::multiply},
      {1, U"/", BinaryOp::divide}, {1, U"//", BinaryOp::floor_divide}, {1, U"%", BinaryOp::modulo},
      {2, U"**", BinaryOp::power}};
  for (const auto& [r, text, op] : kOps) {
    if (r == rank && next_is(Kind::op, text)) return op;
  }
  return std::nullopt;
}

// Operators of one rank, from the left.
template <class Operand>
ExpressionPtr ExpressionParser::chain(int rank, Operand operand) {
  ExpressionPtr left = operand();
  while (const auto op = binary_op(rank)) {
    auto node = make<Binary>(take());
    node->op = *op;
    adopt(*node, node->left, std::move(left));
    adopt(*node, node->right, operand());
    left = std::move(node);
  }
  return left;
}

ExpressionPtr ExpressionParser::sum() {
  return chain(0, [this] { return concatenation(); });
}

ExpressionPtr ExpressionParser::concatenation() {
  const Token& start = peek();
  ExpressionPtr first = product();
  if (!next_is(Kind::op, U"~")) return first;
  auto node = make<Concatenation>(start);
  add(node->parts, *node, std::move(first));
  while (accept_op(U"~")) add(node->parts, *node, product());
  return node;
}

ExpressionPtr ExpressionParser::product() {
  return chain(1, [this] { return chain(2, [this] { return unary(true); }); });
}

// Filters bind to the whole of -x, not to x.
ExpressionPtr ExpressionParser::unary(bool with_filters) {
  ExpressionPtr value;
  if (next_is(Kind::op, U"-") || next_is(Kind::op, U"+")) {
    const Nesting nesting(*this);
    const Token& token = take();
    auto node = make<Unary>(token);
    node->op = token.text == U"-" ? UnaryOp::minus : UnaryOp::plus;
    adopt(*node, node->operand, unary(false));
    value = std::move(node);
  } else {
    value = primary();
  }
  value = postfix(std::move(value));
  return with_filters ? filters_and_tests(std::move(value)) : std::move(value);
}

}  // namespace linnet::formats::jinja
