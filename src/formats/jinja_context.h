// What a running template has: names in scopes, objects, and a budget that ends it whatever it does.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/jinja_value.h"

namespace linnet::formats::jinja {

// Names set by a template or a loop; the outermost scope holds what the caller gave.
class Scope {
 public:
  explicit Scope(const Scope* parent = nullptr) : parent_(parent) {}
  void set(const std::string& name, Value value);
  const Value* find(const std::string& name) const;  // here or further out

 private:
  std::vector<std::pair<std::string, Value>> names_;
  const Scope* parent_;
};

class Context {
 public:
  Context(std::string template_name, uint64_t budget) : template_name_(std::move(template_name)), budget_(budget) {}

  const std::string& template_name() const { return template_name_; }

  // Every node costs 1, a character that it makes or reads 1, an element of a container kElementCost: a unit of work stands for
  // at most about 8 bytes of memory. Throws Fault when the budget is spent.
  static constexpr uint64_t kElementCost = 8;
  void charge(uint64_t cost) {
    if (cost > budget_)
      throw Fault{"rendering: expected an end, got beyond the limit of work for a conversation of this size"};
    budget_ -= cost;
  }
  Value charged(Value value) {  // for a value just made
    if (const Text* text = value.text()) charge(text->size());
    if (const List* list = value.list()) charge(kElementCost * list->items.size());
    if (const Dict* dict = value.dict()) charge(2 * kElementCost * dict->items.size());
    return value;
  }

  template <class T, class... Args>
  Value make_object(Args&&... args) {
    charge(64);  // about its bytes
    objects_.push_back(std::make_unique<T>(std::forward<Args>(args)...));
    return Value(objects_.back().get());
  }

  Scope& globals() { return globals_; }

  // Nested evaluations, macros included.
  class Depth {
   public:
    explicit Depth(Context& context) : context_(context) {
      if (++context_.depth_ > kMaxDepth) {
        --context_.depth_;
        throw Fault{"rendering: expected less than 600 nested steps, got more"};
      }
    }
    ~Depth() { --context_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Context& context_;
  };

 private:
  static constexpr int kMaxDepth = 600;  // a level takes less than 2 KiB of stack with sanitizers on
  std::string template_name_;
  uint64_t budget_;
  int depth_ = 0;
  Scope globals_;
  std::vector<std::unique_ptr<Object>> objects_;  // they may refer to one another
};

// Arguments of a call. A function takes its parameters in the order of its signature, then says done().
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  size_t next = 0;

  std::optional<Value> take(const char* name);
  Value need(const char* name);      // throws Fault when it is missing
  Text need_text(const char* name);  // or no text
  int64_t take_integer(const char* name, int64_t otherwise);
  bool take_boolean(const char* name, bool otherwise);
  void done() const;  // throws Fault when something is left
};

using Filter = Value (*)(Context&, const Value& input, Args&);
using Test = bool (*)(Context&, const Value& input, Args&);
Filter find_filter(std::string_view name);  // null when there is none
Test find_test(std::string_view name);
Value bound_method(Context&, const Value& self, const std::string& name);  // undefined when there is none
void add_builtin_functions(Context&);                                      // range, namespace, dict, raise_exception

// Work of finding `what` in a text, in nodes' cost (an evaluated node costs as much as comparing about 32 characters).
inline uint64_t search_cost(TextView text, TextView what) { return text.size() + text.size() / 32 * what.size(); }

// What a `for` loop, list(), join() and the like go through: items, keys, characters; nothing of an undefined value.
std::vector<Value> items_of(Context&, const Value& value);
Value attribute_of(Context&, const Value& value, const std::string& name);  // value.name
Value item_of(Context&, const Value& value, const Value& key);              // value[key]

Value to_json(Context&, const Value& value, Args&);  // the filter tojson
bool contains(Context&, const Value& container, const Value& item);

}  // namespace linnet::formats::jinja
