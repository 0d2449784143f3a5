// Rendering of statements.
#include "core/errors.h"
#include "core/text.h"
#include "formats/jinja_nodes.h"

namespace linnet::formats::jinja {

namespace {

// The variable `loop`.
class Loop final : public Object {
 public:
  explicit Loop(const std::vector<Value>& items) : items_(items) {}
  const char* type_name() const override { return "loop"; }
  void go_to(size_t index) { index_ = index; }
  Value attribute(const std::string& name) const override {
    const auto n = static_cast<int64_t>(items_.size()), i = static_cast<int64_t>(index_);
    if (name == "index") return Value(i + 1);
    if (name == "index0") return Value(i);
    if (name == "revindex") return Value(n - i);
    if (name == "revindex0") return Value(n - i - 1);
    if (name == "first") return Value(i == 0);
    if (name == "last") return Value(i + 1 == n);
    if (name == "length") return Value(n);
    if (name == "previtem") return i > 0 ? items_[index_ - 1] : Value(Undefined{"loop.previtem"});
    if (name == "nextitem") return i + 1 < n ? items_[index_ + 1] : Value(Undefined{"loop.nextitem"});
    throw Fault{
        cat("loop: expected index, index0, revindex, revindex0, first, last, length, previtem or nextitem, got ",
            printable(name, 40))};
  }

 private:
  const std::vector<Value> items_;
  size_t index_ = 0;
};

class MacroFunction final : public Object {
 public:
  MacroFunction(const Macro& macro, const Scope& globals) : macro_(macro), globals_(globals) {}
  const char* type_name() const override { return "macro"; }
  bool callable() const override { return true; }
  Value call(Context& context, Args& args) override {
    Scope scope(&globals_);
    for (const auto& [name, otherwise] : macro_.parameters) {
      std::optional<Value> given = args.take(name.c_str());
      if (!given && otherwise) given = otherwise->evaluate(context, scope);
      scope.set(name, given ? std::move(*given) : Value(Undefined{name}));
    }
    args.done();
    Text out;
    run_block(macro_.body, context, scope, out);
    return Value(std::move(out));
  }

 private:
  const Macro& macro_;
  const Scope& globals_;
};

}  // namespace

Flow Statement::run(Context& context, Scope& scope, Text& out) const {
  try {
    const Context::Depth depth(context);
    context.charge(1);
    return render(context, scope, out);
  } catch (const Fault& fault) {
    throw FormatError(cat(context.template_name(), ":", place.line, ":", place.column, ": ", fault.text));
  }
}

Flow run_block(const Block& block, Context& context, Scope& scope, Text& out) {
  for (const StatementPtr& statement : block) {
    if (const Flow flow = statement->run(context, scope, out); flow != Flow::next) return flow;
  }
  return Flow::next;
}

Flow Data::render(Context& context, Scope&, Text& out) const {
  context.charge(text.size());
  out += text;
  return Flow::next;
}

Flow Output::render(Context& context, Scope& scope, Text& out) const {
  const Value result = value->evaluate(context, scope);
  context.charge(result.weight());
  out += str(result);
  return Flow::next;
}

Flow If::render(Context& context, Scope& scope, Text& out) const {
  for (const auto& [condition, block] : branches) {
    if (condition->evaluate(context, scope).truth()) return run_block(block, context, scope, out);
  }
  return run_block(otherwise, context, scope, out);
}

void Targets::assign(Scope& scope, const Value& value) const {
  if (!spread) return scope.set(names[0], value);
  const List* list = value.list();
  if (!list || list->items.size() != names.size()) {
    throw Fault{cat("assignment: expected a list of ", names.size(), ", got a ", value.type_name(),
                    list ? cat(" of ", list->items.size()) : "")};
  }
  for (size_t i = 0; i < names.size(); ++i) scope.set(names[i], list->items[i]);
}

Flow For::render(Context& context, Scope& scope, Text& out) const {
  std::vector<Value> values = items_of(context, items->evaluate(context, scope));
  if (condition) {
    std::vector<Value> kept;
    for (Value& value : values) {
      Scope inner(&scope);
      targets.assign(inner, value);
      if (condition->evaluate(context, inner).truth()) kept.push_back(std::move(value));
    }
    values = std::move(kept);
  }
  if (values.empty()) return run_block(otherwise, context, scope, out);

  context.charge(values.size());
  const Value loop_value = context.make_object<Loop>(values);
  auto* loop = static_cast<Loop*>(loop_value.object());
  for (size_t i = 0; i < values.size(); ++i) {
    context.charge(1);
    loop->go_to(i);
    Scope inner(&scope);
    inner.set("loop", loop_value);
    targets.assign(inner, values[i]);
    if (run_block(body, context, inner, out) == Flow::break_) break;
  }
  return Flow::next;
}

Flow Set::render(Context& context, Scope& scope, Text&) const {
  targets.assign(scope, value->evaluate(context, scope));
  return Flow::next;
}

Flow SetAttribute::render(Context& context, Scope& scope, Text&) const {
  const Value* target = scope.find(object);
  if (!target || !target->object()) {
    throw Fault{cat("set: expected a namespace named ", object, ", got ", target ? target->type_name() : "nothing")};
  }
  target->object()->set_attribute(name, value->evaluate(context, scope));
  return Flow::next;
}

Flow SetBlock::render(Context& context, Scope& scope, Text&) const {
  Text text;
  Scope inner(&scope);
  run_block(body, context, inner, text);
  scope.set(name, Value(std::move(text)));
  return Flow::next;
}

Flow Macro::render(Context& context, Scope& scope, Text&) const {
  scope.set(name, context.make_object<MacroFunction>(*this, context.globals()));
  return Flow::next;
}

}  // namespace linnet::formats::jinja
