// Memory that reports accesses out of bounds and races.
//
// A race is two accesses to the same bytes by different threads that no barrier separates, of which one is a write.
// Two exceptions: both are atomic, or both write the same value. What separates two accesses is decided by the
// barriers that the threads have passed, not by the order in which they happened to run, so a race is found in any
// schedule that executes both. Shuffles and votes separate nothing; neither does a barrier of a part of a warp.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "arithmetic.h"

namespace ptx {

constexpr u32 MANY = 0xffffffff;

// Who accesses memory, and when: the number of barriers passed by the block and by the warp.
struct Moment {
    u32 block;  // from 1
    u32 block_barriers;
    u32 warp;
    u32 warp_barriers;
    u32 lane;
    s32 instruction;
};

// The accesses of one kind to a place, of which only those matter that a barrier has not separated from a later one.
struct Accesses {
    Moment last;  // with MANY for what differs between them; block 0: none

    bool any() const { return last.block != 0; }

    bool all_before(const Moment& now) const {
        if (!any()) return true;
        if (last.block != now.block) return false;
        if (last.block_barriers != now.block_barriers) return true;
        if (last.warp != now.warp) return false;
        return last.warp_barriers != now.warp_barriers || last.lane == now.lane;
    }

    void add(const Moment& now) {
        Moment united = now;
        if (!all_before(now)) {
            if (last.block != now.block) {
                united.block = MANY;
            } else if (last.warp != now.warp) {
                united.warp = MANY;
            } else {
                united.lane = MANY;
            }
        }
        last = united;
    }
};

// One byte. All zero at first.
struct Cell {
    Accesses writes, atomics, reads;
    bool constant;  // was read as data that does not change while the kernel runs
};
constexpr u64 CELL_BYTES = 1;

// An array: where the kernel sees it, and where it is.
struct Region {
    u64 address, bytes;
    char* data;
};

// Arrays at multiples of 2^shift, so that no access beyond one of them reaches the next.
class Memory {
  public:
    Memory(const Region* regions, s32 n, int shift, bool filled) : shift_(shift), filled_(filled) {
        for (s32 i = 0; i < n; ++i) {
            void* cells = std::calloc(regions[i].bytes / CELL_BYTES + 1, sizeof(Cell));
            arrays_.push_back({regions[i], {static_cast<Cell*>(cells), std::free}});
        }
    }

    void read(u64 address, u64 bytes, char* to, bool constant, const Moment& now) {
        const Place at = find(address, bytes);
        for (Cell* cell = at.first; cell != at.last; ++cell) {
            if (!filled_ && !cell->writes.any()) fail(Wrong::uninitialized);
            check(cell->writes, now);
            check(cell->atomics, now);
            if (constant && cell->writes.any()) fail(Wrong::constant, cell->writes.last.instruction);
            if (constant && cell->atomics.any()) fail(Wrong::constant, cell->atomics.last.instruction);
            cell->constant |= constant;
            cell->reads.add(now);
        }
        std::memcpy(to, at.data, bytes);
    }

    void write(u64 address, u64 bytes, const char* from, const Moment& now) {
        const Place at = find(address, bytes);
        for (u64 i = 0; i < bytes / CELL_BYTES; ++i) {
            Cell& cell = at.first[i];
            if (cell.constant) fail(Wrong::constant, cell.reads.last.instruction);
            check(cell.reads, now);
            check(cell.atomics, now);
            if (std::memcmp(from + i * CELL_BYTES, at.data + i * CELL_BYTES, CELL_BYTES)) check(cell.writes, now);
            cell.writes.add(now);
        }
        std::memcpy(at.data, from, bytes);
    }

    // Adds atomically and returns the sum before.
    u64 add(u64 address, u64 value, const Moment& now) {
        const Place at = find(address, sizeof value);
        for (Cell* cell = at.first; cell != at.last; ++cell) {
            if (cell->constant) fail(Wrong::constant, cell->reads.last.instruction);
            check(cell->writes, now);
            check(cell->reads, now);
            cell->atomics.add(now);
        }
        u64 before;
        std::memcpy(&before, at.data, sizeof before);
        value += before;
        std::memcpy(at.data, &value, sizeof value);
        return before;
    }

  private:
    struct Array {
        Region region;
        std::unique_ptr<Cell[], decltype(&std::free)> cells;
    };
    struct Place {
        char* data;
        Cell *first, *last;
    };

    Place find(u64 address, u64 bytes) {
        const u64 number = (address >> shift_) - 1;
        if (number >= arrays_.size()) fail(Wrong::out_of_bounds, -1, address);
        const Array& array = arrays_[number];
        const u64 offset = address - array.region.address;
        if (offset > array.region.bytes || bytes > array.region.bytes - offset) fail(Wrong::out_of_bounds, -1, address);
        if (address % bytes) fail(Wrong::misaligned, -1, address);
        Cell* first = array.cells.get() + offset / CELL_BYTES;
        return {array.region.data + offset, first, first + bytes / CELL_BYTES};
    }

    static void check(const Accesses& earlier, const Moment& now) {
        if (!earlier.all_before(now)) fail(Wrong::race, earlier.last.instruction);
    }

    std::vector<Array> arrays_;
    int shift_;
    bool filled_;  // else it must be written before it is read
};

}  // namespace ptx
