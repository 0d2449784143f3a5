// Evaluation of expressions.
#include <algorithm>
#include <cmath>

#include "core/errors.h"
#include "core/text.h"
#include "formats/jinja_nodes.h"

namespace linnet::formats::jinja {

namespace {

[[noreturn]] void bad_operands(const char* op, const Value& a, const Value& b) {
  for (const Value* v : {&a, &b}) {
    if (v->is_undefined()) throw Fault{v->undefined_text()};
  }
  throw Fault{cat(op, ": expected operands that fit, got ", a.type_name(), " and ", b.type_name())};
}

[[noreturn]] void overflow(const char* op) { throw Fault{cat(op, ": expected a 64-bit result, got more")}; }

Value joined(const List& a, const List& b) {
  std::vector<Value> items = a.items;
  items.insert(items.end(), b.items.begin(), b.items.end());
  return make_list(std::move(items), a.tuple);
}

Value add(Context& context, const Value& a, const Value& b) {
  if (a.text() && b.text()) return context.charged(Value(*a.text() + *b.text()));
  if (a.list() && b.list() && a.list()->tuple == b.list()->tuple) return context.charged(joined(*a.list(), *b.list()));
  if (!a.is_number() || !b.is_number()) bad_operands("+", a, b);
  const auto x = a.integer(), y = b.integer();
  if (!x || !y) return Value(a.number() + b.number());
  int64_t sum;
  if (__builtin_add_overflow(*x, *y, &sum)) overflow("+");
  return Value(sum);
}

Value subtract(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) bad_operands("-", a, b);
  const auto x = a.integer(), y = b.integer();
  if (!x || !y) return Value(a.number() - b.number());
  int64_t difference;
  if (__builtin_sub_overflow(*x, *y, &difference)) overflow("-");
  return Value(difference);
}

Value repeated(Context& context, const Value& sequence, int64_t times) {
  const auto n = static_cast<uint64_t>(std::max<int64_t>(times, 0));
  const uint64_t size = sequence.text() ? sequence.text()->size() : sequence.list()->items.size();
  if (size > 0 && n > kMaxWeight / size) overflow("*");
  context.charge(n * size * (sequence.list() ? Context::kElementCost : 1));
  if (const Text* text = sequence.text()) {
    Text out;
    for (uint64_t i = 0; i < n && size > 0; ++i) out += *text;
    return Value(std::move(out));
  }
  std::vector<Value> items;
  for (uint64_t i = 0; i < n && size > 0; ++i) {
    items.insert(items.end(), sequence.list()->items.begin(), sequence.list()->items.end());
  }
  return make_list(std::move(items), sequence.list()->tuple);
}

Value multiply(Context& context, const Value& a, const Value& b) {
  const auto x = a.integer(), y = b.integer();
  if ((a.text() || a.list()) && y) return repeated(context, a, *y);
  if ((b.text() || b.list()) && x) return repeated(context, b, *x);
  if (!a.is_number() || !b.is_number()) bad_operands("*", a, b);
  if (!x || !y) return Value(a.number() * b.number());
  int64_t product;
  if (__builtin_mul_overflow(*x, *y, &product)) overflow("*");
  return Value(product);
}

// Division that rounds down, and its remainder, which has the divisor's sign.
Value floor_divide(const Value& a, const Value& b, bool remainder) {
  const char* op = remainder ? "%" : "//";
  if (!a.is_number() || !b.is_number()) bad_operands(op, a, b);
  if (b.number() == 0) throw Fault{cat(op, ": expected a divisor, got 0")};
  const auto x = a.integer(), y = b.integer();
  if (!x || !y) {
    const double quotient = std::floor(a.number() / b.number());
    const double rest = std::fmod(a.number(), b.number());
    if (!remainder) return Value(quotient);
    return Value(rest != 0 && (rest < 0) != (b.number() < 0) ? rest + b.number() : rest);
  }
  if (*y == -1) return remainder ? Value(int64_t{0}) : subtract(Value(int64_t{0}), a);
  const int64_t rest = *x % *y;
  const bool down = rest != 0 && (rest < 0) != (*y < 0);
  return Value(remainder ? rest + (down ? *y : 0) : *x / *y - (down ? 1 : 0));
}

Value power(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) bad_operands("**", a, b);
  const auto x = a.integer(), y = b.integer();
  if (!x || !y || *y < 0) return Value(std::pow(a.number(), b.number()));
  int64_t product = 1;
  for (int64_t i = 0; i < *y && *x != 1; ++i) {
    if (i > 64 && (*x == 0 || *x == -1)) return Value(*x == 0 ? int64_t{0} : *y % 2 ? int64_t{-1} : int64_t{1});
    if (__builtin_mul_overflow(product, *x, &product)) overflow("**");
  }
  return Value(product);
}

bool holds(Context& context, CompareOp op, const Value& a, const Value& b) {
  if (op == CompareOp::in) return contains(context, b, a);
  if (op == CompareOp::not_in) return !contains(context, b, a);
  context.charge(std::min(a.weight(), b.weight()));
  if (op == CompareOp::eq) return equal(a, b);
  if (op == CompareOp::ne) return !equal(a, b);
  for (const Value* v : {&a, &b}) {
    if (v->is_undefined()) throw Fault{v->undefined_text()};
  }
  const int order = compare(a, b);
  switch (op) {
    case CompareOp::lt: return order < 0;
    case CompareOp::le: return order <= 0;
    case CompareOp::gt: return order > 0;
    default: return order >= 0;
  }
}

// Python's slice: indices of the items taken, in order.
std::vector<size_t> slice_indices(size_t size, std::optional<int64_t> start, std::optional<int64_t> stop,
                                  int64_t step) {
  const auto n = static_cast<int64_t>(size);
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
  const auto clamped = [&](std::optional<int64_t> at, int64_t otherwise) {
    if (!at) return otherwise;
    return std::clamp(*at < 0 ? *at + n : *at, low, high);
  };
  const int64_t first = clamped(start, step > 0 ? low : high), last = clamped(stop, step > 0 ? high : low);
  std::vector<size_t> indices;
  for (int64_t i = first; step > 0 ? i < last : i > last;) {
    indices.push_back(static_cast<size_t>(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return indices;
}

std::optional<int64_t> optional_index(const ExpressionPtr& index, Context& context, const Scope& scope) {
  if (!index) return std::nullopt;
  const Value value = index->evaluate(context, scope);
  if (value.is_none()) return std::nullopt;
  if (!value.integer()) throw Fault{cat("slice: expected an int, got ", value.type_name())};
  return value.integer();
}

}  // namespace

bool contains(Context& context, const Value& container, const Value& item) {
  if (container.text()) {
    if (!item.text()) bad_operands("in", item, container);
    context.charge(search_cost(*container.text(), *item.text()));
    return container.text()->find(*item.text()) != Text::npos;
  }
  context.charge(item.weight());
  if (const Dict* dict = container.dict()) return dict->find(item) != nullptr;
  for (const Value& other : items_of(context, container)) {
    context.charge(std::min(item.weight(), other.weight()));
    if (equal(item, other)) return true;
  }
  return false;
}

Value Expression::evaluate(Context& context, const Scope& scope) const {
  const auto at = [&] { return cat(context.template_name(), ":", place.line, ":", place.column, ": "); };
  try {
    const Context::Depth depth(context);
    context.charge(1);
    return eval(context, scope);
  } catch (const Fault& fault) { throw FormatError(at() + fault.text); } catch (const Refusal& refusal) {
    throw InvalidArgument(cat(at(), "the template refuses the conversation: ", refusal.text));
  }
}

Value Name::eval(Context&, const Scope& scope) const {
  const Value* value = scope.find(name);
  return value ? *value : Value(Undefined{name});
}

Value ListDisplay::eval(Context& context, const Scope& scope) const {
  std::vector<Value> values;
  for (const ExpressionPtr& item : items) values.push_back(item->evaluate(context, scope));
  return context.charged(make_list(std::move(values), tuple));
}

Value DictDisplay::eval(Context& context, const Scope& scope) const {
  std::vector<std::pair<Value, Value>> values;
  for (const auto& [key, value] : items) {
    Value k = key->evaluate(context, scope);
    values.emplace_back(std::move(k), value->evaluate(context, scope));
  }
  return context.charged(make_dict(std::move(values)));
}

Value Attribute::eval(Context& context, const Scope& scope) const {
  return attribute_of(context, object->evaluate(context, scope), name);
}

Value Subscript::eval(Context& context, const Scope& scope) const {
  const Value container = object->evaluate(context, scope);
  return item_of(context, container, key->evaluate(context, scope));
}

Value Slice::eval(Context& context, const Scope& scope) const {
  const Value whole = object->evaluate(context, scope);
  if (whole.is_undefined()) throw Fault{whole.undefined_text()};
  if (!whole.text() && !whole.list()) return Value(Undefined{"slice"});
  const auto from = optional_index(start, context, scope), to = optional_index(stop, context, scope);
  const int64_t by = optional_index(step, context, scope).value_or(1);
  if (by == 0) throw Fault{"slice: expected a step other than 0, got 0"};
  const size_t size = whole.text() ? whole.text()->size() : whole.list()->items.size();
  const std::vector<size_t> indices = slice_indices(size, from, to, by);
  if (const Text* text = whole.text()) {
    Text out;
    for (size_t i : indices) out += (*text)[i];
    return context.charged(Value(std::move(out)));
  }
  std::vector<Value> items;
  for (size_t i : indices) items.push_back(whole.list()->items[i]);
  return context.charged(make_list(std::move(items), whole.list()->tuple));
}

Args Arguments::evaluate(Context& context, const Scope& scope) const {
  Args args;
  for (const ExpressionPtr& value : positional) args.positional.push_back(value->evaluate(context, scope));
  for (const auto& [name, value] : named) args.named.emplace_back(name, value->evaluate(context, scope));
  return args;
}

Value Call::eval(Context& context, const Scope& scope) const {
  const Value function = callee->evaluate(context, scope);
  Args args = arguments.evaluate(context, scope);
  if (function.is_undefined()) throw Fault{function.undefined_text()};
  if (!function.object()) throw Fault{cat("call: expected a function, got ", function.type_name())};
  return context.charged(function.object()->call(context, args));
}

Value FilterCall::eval(Context& context, const Scope& scope) const {
  const Value value = input->evaluate(context, scope);
  Args args = arguments.evaluate(context, scope);
  const Value result = filter(context, value, args);
  args.done();
  return context.charged(result);
}

Value TestCall::eval(Context& context, const Scope& scope) const {
  const Value value = input->evaluate(context, scope);
  Args args = arguments.evaluate(context, scope);
  const bool result = test(context, value, args);
  args.done();
  return Value(result != negated);
}

Value Unary::eval(Context& context, const Scope& scope) const {
  const Value value = operand->evaluate(context, scope);
  if (op == UnaryOp::not_) return Value(!value.truth());
  const Value zero(int64_t{0});
  return op == UnaryOp::plus ? add(context, zero, value)
         : value.is_real()   ? Value(-value.number())
                             : subtract(zero, value);
}

Value Binary::eval(Context& context, const Scope& scope) const {
  const Value a = left->evaluate(context, scope);
  const Value b = right->evaluate(context, scope);
  switch (op) {
    case BinaryOp::add: return add(context, a, b);
    case BinaryOp::subtract: return subtract(a, b);
    case BinaryOp::multiply: return multiply(context, a, b);
    case BinaryOp::floor_divide: return floor_divide(a, b, false);
    case BinaryOp::modulo: return floor_divide(a, b, true);
    case BinaryOp::power: return power(a, b);
    case BinaryOp::divide: break;
  }
  if (!a.is_number() || !b.is_number()) bad_operands("/", a, b);
  if (b.number() == 0) throw Fault{"/: expected a divisor, got 0"};
  return Value(a.number() / b.number());
}

Value Concatenation::eval(Context& context, const Scope& scope) const {
  Text out;
  for (const ExpressionPtr& part : parts) {
    const Value value = part->evaluate(context, scope);
    context.charge(value.weight());
    out += str(value);
  }
  return Value(std::move(out));
}

Value Comparison::eval(Context& context, const Scope& scope) const {
  Value left = first->evaluate(context, scope);
  for (const auto& [op, operand] : rest) {
    Value right = operand->evaluate(context, scope);
    if (!holds(context, op, left, right)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Logical::eval(Context& context, const Scope& scope) const {
  Value value = left->evaluate(context, scope);
  return value.truth() == is_or ? value : right->evaluate(context, scope);
}

Value Conditional::eval(Context& context, const Scope& scope) const {
  if (condition->evaluate(context, scope).truth()) return value->evaluate(context, scope);
  return otherwise ? otherwise->evaluate(context, scope) : Value();
}

}  // namespace linnet::formats::jinja
