#include "formats/jinja_parser.h"

#include "formats/jinja_expression_parser.h"

namespace linnet::formats::jinja {

namespace {

class Parser : ExpressionParser {
 public:
  Parser(const std::string& name, std::string_view source) : ExpressionParser(name, source) {}

  Block parse() {
    Block block = block_until({});
    if (peek().kind != TokenKind::end) fail("the end of the template");
    return block;
  }

 private:
  // Statements up to a block that begins with one of these words, which is left to be taken.
  Block block_until(std::initializer_list<TextView> words) {
    const Nesting nesting(*this);
    Block block;
    for (;;) {
      const Token& token = peek();
      if (token.kind == Kind::data) {
        auto node = make<Data>(take());
        node->text = token.text;
        block.push_back(std::move(node));
      } else if (token.kind == Kind::output_begin) {
        auto node = make<Output>(take());
        node->value = expressions();
        expect(Kind::output_end, "}}");
        block.push_back(std::move(node));
      } else if (token.kind == Kind::block_begin) {
        for (TextView word : words) {
          if (peek(1).is(Kind::name, word)) return block;
        }
        take();
        block.push_back(statement());
      } else {
        if (words.size() > 0) fail(cat("{% ", utf8_of(*(words.end() - 1)), " %}"));
        return block;
      }
    }
  }

  StatementPtr statement() {
    const Token& token = peek();
    const std::string word = identifier("a statement");
    StatementPtr node;
    if (word == "if") {
      node = if_statement(token);
    } else if (word == "for") {
      node = for_statement(token);
    } else if (word == "set") {
      node = set_statement(token);
    } else if (word == "macro") {
      node = macro_statement(token);
    } else if (word == "break" || word == "continue") {
      if (loops_ == 0) fail_at(token, cat("expected ", word, " inside a loop, got it outside"));
      auto control = make<LoopControl>(token);
      control->flow = word == "break" ? Flow::break_ : Flow::continue_;
      node = std::move(control);
    } else if (word == "generation") {
      auto group = make<Group>(token);
      end_of_block();
      group->body = block_until({U"endgeneration"});
      take(), take();
      node = std::move(group);
    } else {
      fail_at(token, cat("unknown statement ", printable(word, 40)));
    }
    end_of_block();
    return node;
  }
  void end_of_block() { expect(Kind::block_end, "%}"); }
  std::string begin_of_block() {  // the word after {%
    take();
    return identifier("a statement");
  }

  StatementPtr if_statement(const Token& token) {
    auto node = make<If>(token);
    std::string word = "if";
    do {
      ExpressionPtr condition = expressions(true);
      end_of_block();
      node->branches.emplace_back(std::move(condition), block_until({U"elif", U"else", U"endif"}));
      word = begin_of_block();
    } while (word == "elif");
    if (word == "else") {
      end_of_block();
      node->otherwise = block_until({U"endif"});
      begin_of_block();
    }
    return node;
  }

  Targets targets() {
    Targets targets;
    const bool bracket = accept_op(U"(");
    do {
      targets.names.push_back(identifier("a name to assign to"));
    } while (accept_op(U",") && (targets.spread = true));
    if (bracket) expect_op(U")");
    return targets;
  }

  StatementPtr for_statement(const Token& token) {
    auto node = make<For>(token);
    node->targets = targets();
    expect_name(U"in");
    node->items = expressions(false);
    if (accept_name(U"if")) node->condition = expression();
    if (next_is(Kind::name, U"recursive")) fail_at(peek(), "unknown construct: recursive loop");
    end_of_block();
    ++loops_, ++inner_;
    node->body = block_until({U"else", U"endfor"});
    --loops_, --inner_;
    if (begin_of_block() == "else") {
      end_of_block();
      node->otherwise = block_until({U"endfor"});
      begin_of_block();
    }
    return node;
  }

  StatementPtr set_statement(const Token& token) {
    if (peek(1).is(Kind::op, U".")) {
      auto node = make<SetAttribute>(token);
      node->object = identifier("the name of a namespace");
      take();
      node->name = identifier("a name after the dot");
      expect_op(U"=");
      node->value = expressions();
      return node;
    }
    Targets names = targets();
    if (accept_op(U"=")) {
      auto node = make<Set>(token);
      node->targets = std::move(names);
      node->value = expressions();
      return node;
    }
    if (names.spread || peek().kind != Kind::block_end) fail("\"=\" or %}");
    auto node = make<SetBlock>(token);
    node->name = names.names[0];
    end_of_block();
    const int loops = std::exchange(loops_, 0);
    ++inner_;
    node->body = block_until({U"endset"});
    loops_ = loops, --inner_;
    begin_of_block();
    return node;
  }

  StatementPtr macro_statement(const Token& token) {
    if (inner_ > 0) fail_at(token, "unknown construct: macro inside a loop, macro or set block");
    auto node = make<Macro>(token);
    node->name = identifier("the name of a macro");
    expect_op(U"(");
    while (!accept_op(U")")) {
      if (!node->parameters.empty()) expect_op(U",");
      std::string name = identifier("the name of a parameter");
      node->parameters.emplace_back(std::move(name), accept_op(U"=") ? expression() : nullptr);
    }
    end_of_block();
    ++inner_;
    node->body = block_until({U"endmacro"});
    --inner_;
    begin_of_block();
    return node;
  }

  int loops_ = 0;  // around the statement being parsed, within its macro or set block
  int inner_ = 0;  // loops, macros and set blocks around it
};

}  // namespace

Block parse_template(const std::string& name, std::string_view source) { return Parser(name, source).parse(); }

}  // namespace linnet::formats::jinja
