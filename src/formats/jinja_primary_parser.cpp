// The innermost parts of expressions: constants, names, brackets, calls, filters and tests.
#include <charconv>

#include "formats/jinja_expression_parser.h"

namespace linnet::formats::jinja {

ExpressionPtr ExpressionParser::primary() {
  const Token& token = take();
  switch (token.kind) {
    case Kind::name: return name_or_constant(token);
    case Kind::string: {
      auto node = make<Constant>(token);
      Text text = token.text;
      while (peek().kind == Kind::string) text += take().text;
      node->value = Value(std::move(text));
      return node;
    }
    case Kind::integer:
    case Kind::real: return number(token);
    case Kind::op:
      if (token.text == U"(") return parenthesis(token);
      if (token.text == U"[") return list(token);
      if (token.text == U"{") return dict(token);
      [[fallthrough]];
    default: fail_at(token, cat("expected an expression, got ", text_of_token(token)));
  }
}

ExpressionPtr ExpressionParser::name_or_constant(const Token& token) const {
  const std::string name = utf8_of(token.text);
  std::optional<Value> value;
  if (name == "true" || name == "True") value = Value(true);
  if (name == "false" || name == "False") value = Value(false);
  if (name == "none" || name == "None") value = Value(None{});
  if (value) {
    auto node = make<Constant>(token);
    node->value = *value;
    return node;
  }
  auto node = make<Name>(token);
  node->name = name;
  return node;
}

ExpressionPtr ExpressionParser::number(const Token& token) const {
  const std::string digits = utf8_of(token.text);
  auto node = make<Constant>(token);
  int64_t integer = 0;
  double real = 0;
  const char *begin = digits.data(), *end = begin + digits.size();
  const auto error =
      token.kind == Kind::integer ? std::from_chars(begin, end, integer).ec : std::from_chars(begin, end, real).ec;
  if (error != std::errc{}) fail_at(token, cat("expected a number of 64 bits, got ", printable(digits, 40)));
  node->value = token.kind == Kind::integer ? Value(integer) : Value(real);
  return node;
}

ExpressionPtr ExpressionParser::parenthesis(const Token& token) {
  if (accept_op(U")")) {
    auto empty = make<ListDisplay>(token);
    empty->tuple = true;
    return empty;
  }
  ExpressionPtr inner = expressions();
  expect_op(U")");
  return inner;
}

ExpressionPtr ExpressionParser::list(const Token& token) {
  auto node = make<ListDisplay>(token);
  while (!accept_op(U"]")) {
    if (!node->items.empty()) expect_op(U",");
    if (accept_op(U"]")) break;
    add(node->items, *node, expression());
  }
  return node;
}

ExpressionPtr ExpressionParser::dict(const Token& token) {
  auto node = make<DictDisplay>(token);
  while (!accept_op(U"}")) {
    if (!node->items.empty()) expect_op(U",");
    if (accept_op(U"}")) break;
    ExpressionPtr key = expression();
    expect_op(U":");
    node->items.emplace_back(std::move(key), expression());
    grow(*node, *node->items.back().first);
    grow(*node, *node->items.back().second);
  }
  return node;
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr value) {
  for (;;) {
    const Token& token = peek();
    if (accept_op(U".")) {
      value = attribute(token, std::move(value));
    } else if (accept_op(U"[")) {
      value = subscript(token, std::move(value));
    } else if (next_is(Kind::op, U"(")) {
      value = call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::attribute(const Token& token, ExpressionPtr object) {
  if (peek().kind == Kind::integer) {  // a.0 is a[0]
    auto node = make<Subscript>(token);
    adopt(*node, node->object, std::move(object));
    adopt(*node, node->key, number(take()));
    return node;
  }
  auto node = make<Attribute>(token);
  adopt(*node, node->object, std::move(object));
  node->name = identifier("a name after the dot");
  return node;
}

ExpressionPtr ExpressionParser::subscript(const Token& token, ExpressionPtr object) {
  ExpressionPtr parts[3];
  size_t n = 0;
  bool slice = false;
  for (; n < 3; ++n) {
    if (!next_is(Kind::op, U":") && !next_is(Kind::op, U"]")) parts[n] = expression();
    if (!accept_op(U":")) break;
    slice = true;
  }
  expect_op(U"]");
  if (slice) {
    auto node = make<Slice>(token);
    adopt(*node, node->object, std::move(object));
    ExpressionPtr* slots[] = {&node->start, &node->stop, &node->step};
    for (size_t i = 0; i < 3; ++i) {
      if (parts[i]) adopt(*node, *slots[i], std::move(parts[i]));
    }
    return node;
  }
  if (!parts[0]) fail_at(token, "expected a subscript, got none");
  auto node = make<Subscript>(token);
  adopt(*node, node->object, std::move(object));
  adopt(*node, node->key, std::move(parts[0]));
  return node;
}

ExpressionPtr ExpressionParser::call(ExpressionPtr callee) {
  auto node = make<Call>(peek());
  adopt(*node, node->callee, std::move(callee));
  node->arguments = arguments(*node);
  return node;
}

Arguments ExpressionParser::arguments(Expression& parent) {
  Arguments arguments;
  expect_op(U"(");
  bool first = true;
  while (!accept_op(U")")) {
    if (!first) expect_op(U",");
    first = false;
    if (accept_op(U")")) break;
    if (peek().kind == Kind::name && peek(1).is(Kind::op, U"=")) {
      std::string name = identifier("a name");
      take();
      arguments.named.emplace_back(std::move(name), expression());
      grow(parent, *arguments.named.back().second);
    } else {
      if (!arguments.named.empty()) fail("a named argument after a named one");
      add(arguments.positional, parent, expression());
    }
  }
  return arguments;
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr value) {
  for (;;) {
    if (next_is(Kind::op, U"|")) {
      value = filter(std::move(value));
    } else if (next_is(Kind::name, U"is")) {
      value = test(std::move(value));
    } else if (next_is(Kind::op, U"(")) {
      value = call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::filter(ExpressionPtr input) {
  take();
  const Token& token = peek();
  auto node = make<FilterCall>(token);
  adopt(*node, node->input, std::move(input));
  const std::string name = identifier("the name of a filter");
  node->filter = find_filter(name);
  if (!node->filter) fail_at(token, cat("unknown filter ", printable(name, 40)));
  if (next_is(Kind::op, U"(")) node->arguments = arguments(*node);
  return node;
}

ExpressionPtr ExpressionParser::test(ExpressionPtr input) {
  take();
  const bool negated = accept_name(U"not");
  const Token& token = peek();
  auto node = make<TestCall>(token);
  adopt(*node, node->input, std::move(input));
  node->negated = negated;
  const std::string name = identifier("the name of a test");
  node->test = find_test(name);
  if (!node->test) fail_at(token, cat("unknown test ", printable(name, 40)));
  if (next_is(Kind::op, U"(")) {
    node->arguments = arguments(*node);
  } else if (starts_test_argument()) {
    add(node->arguments.positional, *node, postfix(primary()));
  }
  return node;
}

bool ExpressionParser::starts_test_argument() const {  // x is divisibleby 3
  const Token& token = peek();
  if (token.kind == Kind::op) return token.text == U"[" || token.text == U"{";
  if (token.kind != Kind::name) return token.kind >= Kind::string && token.kind <= Kind::real;
  for (TextView word : {U"else", U"or", U"and", U"if", U"is", U"in", U"not"}) {
    if (token.text == word) return false;
  }
  return true;
}

}  // namespace linnet::formats::jinja
