// Values of the template language: Python's None, bool, int, float, str, list, tuple and dict, undefined names, and objects.
#pragma once

#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/jinja_text.h"

namespace linnet::formats::jinja {

// What goes wrong while a template runs: text without a place. The node that runs adds the place and makes it a FormatError.
struct Fault {
  std::string text;
};
// raise_exception(text): the template refuses its input.
struct Refusal {
  std::string text;
};

class Context;
class Object;
struct Args;
struct List;
struct Dict;

struct Undefined {
  std::string name;  // what was not found; "" when unknown
};
struct None {};

// Immutable and cheap to copy: text and containers are shared. Objects belong to the Context.
class Value {
 public:
  Value() : Value(Undefined{}) {}
  explicit Value(const Undefined& u) : kind_(Kind::undefined) {
    if (!u.name.empty()) shared_ = std::make_shared<const std::string>(u.name);
  }
  explicit Value(None) : kind_(Kind::none) {}
  template <std::same_as<bool> B>
  explicit Value(B b) : kind_(Kind::boolean), scalar_{.integer = b} {}
  explicit Value(int64_t i) : kind_(Kind::integer), scalar_{.integer = i} {}
  explicit Value(double d) : kind_(Kind::real), scalar_{.real = d} {}
  explicit Value(Text text) : kind_(Kind::text), shared_(std::make_shared<const Text>(std::move(text))) {}
  explicit Value(std::shared_ptr<const List> list) : kind_(Kind::list), shared_(std::move(list)) {}
  explicit Value(std::shared_ptr<const Dict> dict) : kind_(Kind::dict), shared_(std::move(dict)) {}
  explicit Value(Object* object) : kind_(Kind::object), scalar_{.object = object} {}

  bool is_undefined() const { return kind_ == Kind::undefined; }
  bool is_none() const { return kind_ == Kind::none; }
  bool is_boolean() const { return kind_ == Kind::boolean; }
  bool is_integer() const { return kind_ == Kind::integer; }  // not a bool
  bool is_real() const { return kind_ == Kind::real; }
  bool is_number() const { return is_boolean() || is_integer() || is_real(); }
  // Null when the value is of another kind.
  const Text* text() const { return shared<Text>(Kind::text); }
  const List* list() const { return shared<List>(Kind::list); }
  const Dict* dict() const { return shared<Dict>(Kind::dict); }
  Object* object() const { return kind_ == Kind::object ? scalar_.object : nullptr; }
  std::optional<int64_t> integer() const;  // of an int or a bool
  double number() const;                   // is_number()

  bool truth() const;
  const char* type_name() const;       // as Python names it
  std::string undefined_text() const;  // "'name' is undefined"
  uint64_t weight() const;  // characters and elements when written out in full: what comparing or printing costs

 private:
  enum class Kind : uint8_t { undefined, none, boolean, integer, real, text, list, dict, object };
  template <class T>
  const T* shared(Kind kind) const {
    return kind_ == kind ? static_cast<const T*>(shared_.get()) : nullptr;
  }

  Kind kind_;
  union {
    int64_t integer = 0;
    double real;
    Object* object;
  } scalar_;
  std::shared_ptr<const void> shared_;  // text, list or dict; the name of what is undefined
};

// Containers know their weight and depth, and are refused (Fault) beyond the limits: what is written out in full, compared
// or destroyed stays small even where parts are shared.
constexpr uint64_t kMaxWeight = uint64_t{1} << 28;
constexpr uint32_t kMaxNesting = 100;

struct List {
  std::vector<Value> items;
  bool tuple = false;
  uint32_t nesting = 1;
  uint64_t weight = 1;
};
struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in order of insertion; keys are distinct
  uint32_t nesting = 1;
  uint64_t weight = 1;
  const Value* find(const Value& key) const;
  const Value* find(TextView key) const;
};
Value make_list(std::vector<Value> items, bool tuple = false);
Value make_dict(std::vector<std::pair<Value, Value>> items);  // of equal keys the last value, at the first place
Value make_text(std::string_view utf8);                       // the template's own

// Something with behaviour: a function, a macro, a bound method, a loop, a namespace.
class Object {
 public:
  virtual ~Object() = default;
  virtual const char* type_name() const = 0;
  virtual Value attribute(const std::string&) const { return {}; }
  virtual void set_attribute(const std::string& name, Value);  // throws Fault unless it is a namespace
  virtual Value call(Context&, Args&);                         // throws Fault unless it can be called
  virtual bool callable() const { return false; }
};

bool equal(const Value& a, const Value& b);
int compare(const Value& a, const Value& b);  // < 0, 0, > 0; throws Fault where Python has no order

Text str(const Value& value);   // Python's str(); of an undefined value ""
Text repr(const Value& value);  // Python's repr()
Text number_text(double value);

}  // namespace linnet::formats::jinja
