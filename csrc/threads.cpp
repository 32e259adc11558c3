#include "threads.h"

#include <chrono>
#include <condition_variable>
#include <exception>
#include <latch>
#include <mutex>
#include <thread>
#include <vector>

namespace krypton {

// Threads are made anew for each call, so that a forked process has what it needs.
void on_threads(int threads, const Kernels& kernels, const Poll& poll, std::atomic<bool>& cancelled,
                const std::function<void(int, const Guard&)>& work) {
    std::mutex mutex;
    std::condition_variable ended;
    int running = threads;
    std::exception_ptr error;
    const Guard guard = [&](const std::function<void()>& step) {
        try {
            if (!cancelled) step();
        } catch (...) {
            const std::lock_guard lock(mutex);
            if (!error) error = std::current_exception();
            cancelled = true;
        }
    };
    // No thread starts before all exist: at a barrier the others would wait for one that could not be made.
    std::latch made(1);
    bool complete = true;
    const auto body = [&](int i) {
        made.wait();
        if (complete) {
            kernels.flush_denormals();
            work(i, guard);
        }
        const std::lock_guard lock(mutex);
        if (--running == 0) ended.notify_all();
    };
    std::vector<std::thread> pool;
    try {
        for (int i = 0; i < threads; ++i) pool.emplace_back(body, i);
    } catch (...) {
        error = std::current_exception();
        complete = false;
        running = static_cast<int>(pool.size());
    }
    made.count_down();
    {
        std::unique_lock lock(mutex);
        while (!ended.wait_for(lock, std::chrono::milliseconds(50), [&] { return running == 0; })) {
            lock.unlock();
            if (poll && poll()) cancelled = true;
            lock.lock();
        }
    }
    for (std::thread& thread : pool) thread.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace krypton
