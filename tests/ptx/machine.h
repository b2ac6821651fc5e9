// Runs a kernel: every thread on its own, in random turns, together only where an instruction makes threads meet.
//
// After `enum Operation` and `compute`, which build.py writes.
#pragma once

#include <numeric>

#include "memory.h"

namespace ptx {

constexpr s32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffff;
constexpr std::size_t LIVE_BLOCKS = 3;
constexpr int GLOBAL_SHIFT = 40, SHARED_SHIFT = 20;

// A kernel and the arguments of a launch, as encode.py and runtime.py have it.
struct Launch {
    const Instruction* code;
    const Slot* slots;  // of a thread at its start: constants and arguments
    const Region* arrays;
    const u64* shared;  // bytes of each shared array
    s64 n_blocks;
    s32 n_slots, n_arrays, n_shared, n_threads;
    s32 thread_slot, block_slot;  // that hold the numbers of the thread and of the block
    u64 seed;                     // 0: everything in order
};

class Random {
  public:
    explicit Random(u64 seed) : state_(seed * 0x9e3779b97f4a7c15) {}
    bool ordered() const { return state_ == 0; }
    u64 below(u64 limit) {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return (state_ >> 16) % limit;
    }
    // Number of memory accesses before another thread goes on: few, or very many.
    u64 turn() {
        if (ordered()) return ~u64{0};
        return below(8) ? 1 + below(12) : 1 + below(3000);
    }

  private:
    u64 state_;
};

enum class State { ready, at_warp, at_block, done };

struct Thread {
    Slot* slots = nullptr;
    s32 at = 0;
    State state = State::ready;
    u32 mask = 0;  // of the operation of the warp at which it waits
    u32 warp_barriers = 0;
};

class Block {
  public:
    Block(const Launch& launch, Memory& global, s64 number)
        : launch_(launch), global_(global), number_(number), shared_(nullptr, 0, SHARED_SHIFT, false) {
        std::vector<Region> regions;
        for (s32 i = 0; i < launch.n_shared; ++i) {
            held_.emplace_back(launch.shared[i] / sizeof(Slot) + 1);
            regions.push_back({(i + u64{1}) << SHARED_SHIFT, launch.shared[i], reinterpret_cast<char*>(held_[i].data())});
        }
        shared_ = Memory(regions.data(), launch.n_shared, SHARED_SHIFT, false);
        slots_.reserve(static_cast<std::size_t>(launch.n_threads) * launch.n_slots);
        for (s32 t = 0; t < launch.n_threads; ++t) {
            slots_.insert(slots_.end(), launch.slots, launch.slots + launch.n_slots);
        }
        threads_.resize(static_cast<std::size_t>(launch.n_threads));
        for (s32 t = launch.n_threads - 1; t >= 0; --t) {
            threads_[t].slots = slots_.data() + static_cast<std::size_t>(t) * launch.n_slots;
            threads_[t].slots[launch.thread_slot].u64 = t;
            threads_[t].slots[launch.block_slot].u64 = number;
            ready_.push_back(t);
        }
    }

    bool done() const { return n_done_ == launch_.n_threads; }

    // Lets one thread run until it waits, ends, or its turn is over.
    void turn(Random& random) {
        if (ready_.empty()) fail_stuck();
        const std::size_t pick = random.ordered() ? ready_.size() - 1 : random.below(ready_.size());
        const s32 number = ready_[pick];
        ready_[pick] = ready_.back();
        ready_.pop_back();
        Thread& thread = threads_[number];
        try {
            run(thread, number, random.turn());
            if (thread.state == State::ready) ready_.push_back(number);
            if (thread.state == State::done) ++n_done_;
            if (thread.state == State::at_warp) meet_warp(number);
            if (thread.state == State::at_block && ++n_at_block_ == launch_.n_threads) meet_block(number);
        } catch (Fault& fault) {
            locate(fault, number);
            throw;
        }
    }

  private:
    void locate(Fault& fault, s32 number) const {
        fault.instruction = threads_[number].at;
        fault.thread = number;
        fault.block = number_;
    }

    void run(Thread& thread, s32 number, u64 accesses) {
        Slot* x = thread.slots;
        for (;; ++thread.at) {
            const Instruction& i = launch_.code[thread.at];
            if (i.guard >= 0 && x[i.guard].pred != (i.wanted != 0)) continue;
            switch (i.operation) {
                case branch: thread.at = i.to[0] - 1; break;
                case leave: thread.state = State::done; return;
                case undefined: fail(Wrong::undefined);
                case load:
                case store:
                case atomic_add:
                    if (accesses-- == 0) return;
                    access(i, x, moment(thread, number));
                    break;
                case barrier: thread.state = State::at_block; return;
                case warp_barrier:
                case shuffle_xor:
                case shuffle_from:
                case vote_any:
                case vote_ballot:
                    thread.state = State::at_warp;
                    thread.mask = x[i.mask].u32;
                    return;
                default: compute(i, x);
            }
        }
    }

    Moment moment(const Thread& thread, s32 number) const {
        const u32 warp = number / WARP, lane = number % WARP;
        return {static_cast<u32>(number_ + 1), block_barriers_, warp, thread.warp_barriers, lane, thread.at};
    }

    void access(const Instruction& i, Slot* x, const Moment& now) {
        Memory& memory = i.shared ? shared_ : global_;
        // Addresses of shared memory have 32 bits.
        const u64 address = (i.shared ? x[i.from[0]].u32 : x[i.from[0]].u64) + i.offset;
        char bytes[16];
        const int size = i.bytes;
        if (i.operation == atomic_add) {
            x[i.to[0]].u64 = memory.add(address, x[i.from[1]].u64, now);
        } else if (i.operation == load) {
            memory.read(address, size * i.count, bytes, i.constant, now);
            for (int k = 0; k < i.count; ++k) {
                u64 value = 0;
                std::memcpy(&value, bytes + k * size, size);
                if (i.is_signed && size == 4) value = static_cast<u64>(static_cast<s64>(static_cast<s32>(value)));
                x[i.to[k]].u64 = value;
            }
        } else {
            for (int k = 0; k < i.count; ++k) std::memcpy(bytes + k * size, &x[i.from[1 + k]], size);
            memory.write(address, size * i.count, bytes, now);
        }
    }

    // Goes on with the threads of a mask once all of them wait at the same operation.
    void meet_warp(s32 number) {
        Thread* lanes = threads_.data() + number / WARP * WARP;
        const u32 mask = threads_[number].mask;
        const auto operation = launch_.code[threads_[number].at].operation;
        if (!(mask >> number % WARP & 1)) fail(Wrong::not_in_own_mask, -1, mask);
        u32 values[WARP], votes = 0;
        for (s32 l = 0; l < WARP; ++l) {
            if (!(mask >> l & 1)) continue;
            const Instruction& i = launch_.code[lanes[l].at];
            if (lanes[l].state != State::at_warp || lanes[l].mask != mask || i.operation != operation) return;
            values[l] = lanes[l].slots[i.from[0]].u32;
            votes |= static_cast<u32>(lanes[l].slots[i.from[0]].pred) << l;
        }
        for (s32 l = 0; l < WARP; ++l) {
            if (!(mask >> l & 1)) continue;
            const Instruction& i = launch_.code[lanes[l].at];
            Slot* x = lanes[l].slots;
            if (operation == vote_any) x[i.to[0]].pred = votes != 0;
            if (operation == vote_ballot) x[i.to[0]].u32 = votes;
            if (operation == shuffle_xor || operation == shuffle_from) shuffle(i, x, l, mask, values);
            if (operation == warp_barrier && mask == ALL_LANES) ++lanes[l].warp_barriers;
            go_on(number / WARP * WARP + l);
        }
    }

    static void shuffle(const Instruction& i, Slot* x, u32 lane, u32 mask, const u32* values) {
        const u32 given = x[i.from[1]].u32 & 31, limits = x[i.from[2]].u32, segment = limits >> 8 & 31;
        const u32 last = (lane & segment) | (limits & 31 & ~segment);
        u32 source = i.operation == shuffle_xor ? lane ^ given : (lane & segment) | (given & ~segment);
        const bool within = source <= last;
        if (!within) source = lane;
        if (!(mask >> source & 1)) fail(Wrong::source_not_in_mask, -1, source);
        x[i.to[0]].u32 = values[source];
        x[i.to[1]].pred = within;
    }

    // CUDA: all threads of a block reach the same barrier.
    void meet_block(s32 number) {
        for (const Thread& thread : threads_) {
            if (thread.at != threads_[number].at) fail(Wrong::other_barrier, thread.at);
        }
        n_at_block_ = 0;
        ++block_barriers_;
        for (s32 t = launch_.n_threads - 1; t >= 0; --t) go_on(t);
    }

    void go_on(s32 number) {
        ++threads_[number].at;
        threads_[number].state = State::ready;
        ready_.push_back(number);
    }

    [[noreturn]] void fail_stuck() const {
        const auto waits = [](const Thread& thread) { return thread.state != State::done; };
        const auto first = std::find_if(threads_.begin(), threads_.end(), waits);
        const auto elsewhere = [&](const Thread& thread) { return waits(thread) && thread.at != first->at; };
        const auto other = std::find_if(first, threads_.end(), elsewhere);
        Fault fault{Wrong::stuck, -1, other == threads_.end() ? -1 : other->at, 0, 0, static_cast<u64>(n_done_)};
        locate(fault, static_cast<s32>(first - threads_.begin()));
        throw fault;
    }

    const Launch& launch_;
    Memory& global_;
    s64 number_;
    std::vector<std::vector<Slot>> held_;  // shared memory
    Memory shared_;
    std::vector<Slot> slots_;
    std::vector<Thread> threads_;
    std::vector<s32> ready_;
    s32 n_done_ = 0, n_at_block_ = 0;
    u32 block_barriers_ = 0;
};

// Runs all blocks, of which a few are live at a time.
inline void run(const Launch& launch) {
    Random random(launch.seed);
    Memory global(launch.arrays, launch.n_arrays, GLOBAL_SHIFT, true);
    std::vector<s64> waiting(static_cast<std::size_t>(launch.n_blocks));
    std::iota(waiting.rbegin(), waiting.rend(), 0);
    if (!random.ordered()) {
        for (std::size_t i = waiting.size(); i > 1; --i) std::swap(waiting[i - 1], waiting[random.below(i)]);
    }
    std::vector<std::unique_ptr<Block>> live;
    while (!waiting.empty() || !live.empty()) {
        while (live.size() < LIVE_BLOCKS && !waiting.empty()) {
            live.push_back(std::make_unique<Block>(launch, global, waiting.back()));
            waiting.pop_back();
        }
        const std::size_t pick = random.ordered() ? 0 : random.below(live.size());
        live[pick]->turn(random);
        if (live[pick]->done()) live.erase(live.begin() + static_cast<std::ptrdiff_t>(pick));
    }
}

}  // namespace ptx

extern "C" void ptx_run(const ptx::Launch* launch, ptx::Fault* fault) {
    try {
        ptx::run(*launch);
    } catch (const ptx::Fault& found) {
        *fault = found;
    }
}
