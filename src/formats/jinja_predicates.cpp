// Tests (value is name), as Jinja2 3.1 defines them.
#include <algorithm>

#include "core/text.h"
#include "formats/jinja_context.h"

namespace linnet::formats::jinja {

namespace {

template <class Holds>
bool ordered(Context& context, const Value& a, Args& args, Holds holds) {
  const Value b = args.need("other");
  context.charge(std::min(a.weight(), b.weight()));
  return holds(compare(a, b));
}

bool is_equal(Context& context, const Value& a, Args& args) {
  const Value b = args.need("other");
  context.charge(std::min(a.weight(), b.weight()));
  return equal(a, b);
}

bool divides(const Value& value, int64_t divisor, int64_t rest) {
  if (!value.integer()) throw Fault{cat("test: expected an int, got ", value.type_name())};
  if (divisor == 0) throw Fault{"test: expected a divisor, got 0"};
  return divisor == -1 || (*value.integer() % divisor + divisor) % divisor == rest;
}

struct NamedTest {
  std::string_view name;
  Test test;
};
constexpr NamedTest kTests[] = {
    {"boolean", [](Context&, const Value& v, Args&) { return v.is_boolean(); }},
    {"callable", [](Context&, const Value& v, Args&) { return v.object() && v.object()->callable(); }},
    {"defined", [](Context&, const Value& v, Args&) { return !v.is_undefined(); }},
    {"divisibleby", [](Context&, const Value& v, Args& a) { return divides(v, a.take_integer("num", 0), 0); }},
    {"eq", is_equal},
    {"equalto", is_equal},
    {"even", [](Context&, const Value& v, Args&) { return divides(v, 2, 0); }},
    {"false", [](Context&, const Value& v, Args&) { return v.is_boolean() && !v.truth(); }},
    {"float", [](Context&, const Value& v, Args&) { return v.is_real(); }},
    {"ge", [](Context& c, const Value& v, Args& a) { return ordered(c, v, a, [](int o) { return o >= 0; }); }},
    {"gt", [](Context& c, const Value& v, Args& a) { return ordered(c, v, a, [](int o) { return o > 0; }); }},
    {"in", [](Context& c, const Value& v, Args& a) { return contains(c, a.need("seq"), v); }},
    {"integer", [](Context&, const Value& v, Args&) { return v.is_integer(); }},
    {"iterable", [](Context&, const Value& v, Args&) { return v.text() || v.list() || v.dict() || v.is_undefined(); }},
    {"le", [](Context& c, const Value& v, Args& a) { return ordered(c, v, a, [](int o) { return o <= 0; }); }},
    {"lt", [](Context& c, const Value& v, Args& a) { return ordered(c, v, a, [](int o) { return o < 0; }); }},
    {"mapping", [](Context&, const Value& v, Args&) { return v.dict() != nullptr; }},
    {"ne", [](Context& c, const Value& v, Args& a) { return !is_equal(c, v, a); }},
    {"none", [](Context&, const Value& v, Args&) { return v.is_none(); }},
    {"number", [](Context&, const Value& v, Args&) { return v.is_number(); }},
    {"odd", [](Context&, const Value& v, Args&) { return divides(v, 2, 1); }},
    {"sequence", [](Context&, const Value& v, Args&) { return v.text() || v.list() || v.dict() || v.is_undefined(); }},
    {"string", [](Context&, const Value& v, Args&) { return v.text() != nullptr; }},
    {"true", [](Context&, const Value& v, Args&) { return v.is_boolean() && v.truth(); }},
    {"undefined", [](Context&, const Value& v, Args&) { return v.is_undefined(); }},
};

}  // namespace

Test find_test(std::string_view name) {
  const auto row = std::find_if(std::begin(kTests), std::end(kTests), [&](const auto& r) { return r.name == name; });
  return row == std::end(kTests) ? nullptr : row->test;
}

}  // namespace linnet::formats::jinja
