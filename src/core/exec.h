// What an op needs to run besides its arguments: threads and scratch memory.
#pragma once

#include "core/arena.h"
#include "core/thread_pool.h"

namespace linnet {

struct Exec {
  ThreadPool& pool;
  Workspace& workspace;  // at least Plan::workspace_bytes() free
};

}  // namespace linnet
