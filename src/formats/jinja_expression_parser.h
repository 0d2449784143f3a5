// Expressions: recursive descent, operators ranked as in jinja2/parser.py (3.1).
#pragma once

#include <optional>

#include "formats/jinja_nodes.h"
#include "formats/jinja_token_reader.h"

namespace linnet::formats::jinja {

class ExpressionParser : protected TokenReader {
 protected:
  using TokenReader::TokenReader;

  ExpressionPtr expression();
  // One expression, or several with commas between them: a tuple.
  ExpressionPtr expressions(bool with_condition = true);

 private:
  static constexpr int kMaxHeight = 200;  // of an expression's tree: operators in a row, brackets in one another

  // Gives a node its child and keeps count of the tree's height.
  void adopt(Expression& parent, ExpressionPtr& slot, ExpressionPtr child) const {
    grow(parent, *child);
    slot = std::move(child);
  }
  void grow(Expression& parent, const Expression& child) const {
    parent.height = std::max(parent.height, child.height + 1);
    if (parent.height > kMaxHeight)
      fail_at(peek(), cat("expected at most ", kMaxHeight, " operators in a row, got more"));
  }
  void add(std::vector<ExpressionPtr>& items, Expression& parent, ExpressionPtr item) {
    grow(parent, *item);
    items.push_back(std::move(item));
  }

  // jinja_expression_parser.cpp: operators, from the loosest
  ExpressionPtr logical(bool is_or);
  ExpressionPtr negation();
  std::optional<CompareOp> compare_op();
  ExpressionPtr comparison();
  std::optional<BinaryOp> binary_op(int rank);
  template <class Operand>
  ExpressionPtr chain(int rank, Operand operand);
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  // Filters bind to the whole of -x, not to x.
  ExpressionPtr unary(bool with_filters);
  bool starts_expression() const;

  // jinja_primary_parser.cpp: what operators stand between
  ExpressionPtr primary();
  ExpressionPtr name_or_constant(const Token& token) const;
  ExpressionPtr number(const Token& token) const;
  ExpressionPtr parenthesis(const Token& token);
  ExpressionPtr list(const Token& token);
  ExpressionPtr dict(const Token& token);
  ExpressionPtr postfix(ExpressionPtr value);
  ExpressionPtr attribute(const Token& token, ExpressionPtr object);
  ExpressionPtr subscript(const Token& token, ExpressionPtr object);
  ExpressionPtr call(ExpressionPtr callee);
  Arguments arguments(Expression& parent);
  ExpressionPtr filters_and_tests(ExpressionPtr value);
  ExpressionPtr filter(ExpressionPtr input);
  ExpressionPtr test(ExpressionPtr input);
  bool starts_test_argument() const;
};

}  // namespace linnet::formats::jinja
