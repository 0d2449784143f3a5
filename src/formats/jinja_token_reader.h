// What the parsers of expressions and statements share: the tokens, a place in them, and what to say when they do not fit.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/errors.h"
#include "core/text.h"
#include "formats/jinja_lexer.h"

namespace linnet::formats::jinja {

class TokenReader {
 protected:
  using Kind = TokenKind;

  TokenReader(const std::string& name, std::string_view source) : name_(name), tokens_(tokens_of(name, source)) {}

  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  bool next_is(Kind kind, TextView text) const { return peek().is(kind, text); }
  const Token& take() { return tokens_[at_ < tokens_.size() - 1 ? at_++ : at_]; }
  bool accept(Kind kind, TextView text) { return next_is(kind, text) && (take(), true); }
  bool accept_op(TextView text) { return accept(Kind::op, text); }
  bool accept_name(TextView text) { return accept(Kind::name, text); }
  void expect_op(TextView text) {
    if (!accept_op(text)) fail(cat("\"", utf8_of(text), "\""));
  }
  void expect_name(TextView text) {
    if (!accept_name(text)) fail(utf8_of(text));
  }
  void expect(Kind kind, const char* what) {
    if (peek().kind != kind) fail(what);
    take();
  }
  std::string identifier(const char* what) {
    if (peek().kind != Kind::name) fail(what);
    return utf8_of(take().text);
  }

  static std::string text_of_token(const Token& token) {
    switch (token.kind) {
      case Kind::data: return "text";
      case Kind::output_begin: return "{{";
      case Kind::output_end: return "}}";
      case Kind::block_begin: return "{%";
      case Kind::block_end: return "%}";
      case Kind::end: return "the end of the template";
      default: return cat("\"", printable(utf8_of(token.text), 40), "\"");
    }
  }
  [[noreturn]] void fail(const std::string& expected) const {
    fail_at(peek(), cat("expected ", expected, ", got ", text_of_token(peek())));
  }
  [[noreturn]] void fail_at(const Token& token, const std::string& what) const {
    throw FormatError(cat(name_, ":", token.line, ":", token.column, ": ", what));
  }

  template <class T>
  std::unique_ptr<T> make(const Token& token) const {
    auto node = std::make_unique<T>();
    node->place = {token.line, token.column};
    return node;
  }
  // A bracket, prefix operator or block being parsed.
  class Nesting {
   public:
    explicit Nesting(TokenReader& reader) : reader_(reader) {
      if (++reader_.nesting_ > kMaxNesting) reader_.fail(cat("at most ", kMaxNesting, " nested brackets and blocks"));
    }
    ~Nesting() { --reader_.nesting_; }

   private:
    TokenReader& reader_;
  };

 private:
  static constexpr int kMaxNesting = 100;
  const std::string& name_;
  const std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace linnet::formats::jinja
