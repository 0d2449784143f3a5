// Tape: what a training pass's forward leaves for its backward. Parts push one record each, in order, and pop them in the
// opposite order; the tensors of a record live in the tape's memory.
#pragma once

#include <cassert>
#include <type_traits>

#include "core/arena.h"

namespace linnet::model {

class Tape {
 public:
  explicit Tape(Workspace& memory) : memory_(memory) {}

  // Memory that lives until whoever opened a Workspace::Scope on it closes that.
  Workspace& memory() { return memory_; }

  template <class Record>
  void push(const Record& record) {
    static_assert(std::is_trivially_copyable_v<Record> && std::is_trivially_destructible_v<Record>);
    Entry<Record>* entry = memory_.take<Entry<Record>>(1);
    *entry = {{top_, &kKind<Record>}, record};
    top_ = entry;
  }

  // The record pushed last, which must be of this type.
  template <class Record>
  const Record& pop() {
    assert(top_ && top_->kind == &kKind<Record>);
    const Entry<Record>* entry = static_cast<Entry<Record>*>(top_);
    top_ = top_->below;
    return entry->record;
  }

 private:
  struct Link {
    Link* below;
    const char* kind;  // an address that tells the types apart
  };
  template <class Record>
  struct Entry : Link {
    Record record;
  };
  template <class Record>
  static constexpr char kKind = 0;

  Workspace& memory_;
  Link* top_ = nullptr;
};

// Where a forward's intermediate results go: on the tape when there is one, else among the temporaries.
inline Workspace& kept_in(Tape* tape, Workspace& scratch) { return tape ? tape->memory() : scratch; }

}  // namespace linnet::model
