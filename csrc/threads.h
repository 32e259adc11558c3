// Threads for one call: what one of them throws reaches the caller, and the caller can cancel.
#pragma once

#include <atomic>
#include <functional>

#include "cpu/kernels.h"

namespace krypton {

// Called now and then on the calling thread; true cancels. May be empty.
using Poll = std::function<bool()>;
// Runs a step of a thread's work, unless the call was cancelled. What the step throws cancels the call, and
// the thread goes on to its next barrier, where the other threads wait for it.
using Guard = std::function<void(const std::function<void()>&)>;

// `work(i, guard)` on each of `threads` threads, and `poll` on this one until all of them have ended. Throws
// the first error of a step.
void on_threads(int threads, const Kernels& kernels, const Poll& poll, std::atomic<bool>& cancelled,
                const std::function<void(int, const Guard&)>& work);

}  // namespace krypton
