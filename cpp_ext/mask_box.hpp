// mask_box: tight box and area of a mask. BoxTracker is how logits_to_masks collects them row by row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "checks.hpp"
#include "targets.hpp"

namespace lite_infer {

// Eight pixels a step: a byte of `counts` counts one column of words, so it may take 255 of them before it is emptied.
LITE_INFER_MULTIVERSION static std::size_t count_nonzero(const std::uint8_t* row, std::size_t count) {
    constexpr std::uint64_t kLowBits = 0x7F7F7F7F7F7F7F7FU;
    constexpr std::uint64_t kOnes = 0x0101010101010101U;
    constexpr std::uint64_t kEvenBytes = 0x00FF00FF00FF00FFU;
    constexpr std::size_t kWord = sizeof(std::uint64_t);
    std::size_t total = 0;
    std::size_t done = 0;
    while (count - done >= kWord) {
        const std::size_t words = (count - done) / kWord < 255 ? (count - done) / kWord : 255;
        std::uint64_t counts = 0;
        for (std::size_t i = 0; i < words; ++i) {
            std::uint64_t word;
            std::memcpy(&word, row + done + i * kWord, kWord);
            counts += ((((word & kLowBits) + kLowBits) | word) >> 7) & kOnes;  // 1 for each byte that is not 0
        }
        const std::uint64_t pairs = (counts & kEvenBytes) + ((counts >> 8) & kEvenBytes);
        total += static_cast<std::size_t>((pairs * 0x0001000100010001U) >> 48);  // sum of the four, at most 8 * 255
        done += words * kWord;
    }
    for (; done < count; ++done) {
        total += row[done] != 0 ? 1U : 0U;
    }
    return total;
}

// Tight box, both ends inclusive, and area of the rows shown to it in ascending order.
struct BoxTracker {
    std::int64_t x0 = -1, y0 = -1, x1 = -1, y1 = -1;  // -1: nothing yet
    std::int64_t area = 0;

    // Columns [from, to) of row y; the other columns are known to be empty.
    void add_row(const std::uint8_t* row, std::size_t from, std::size_t to, std::size_t y) {
        const std::size_t count = count_nonzero(row + from, to - from);
        if (count == 0) {
            return;
        }
        area += static_cast<std::int64_t>(count);
        if (y0 < 0) {
            y0 = static_cast<std::int64_t>(y);
            x0 = static_cast<std::int64_t>(to);
            x1 = static_cast<std::int64_t>(from) - 1;
        }
        y1 = static_cast<std::int64_t>(y);
        // Pixel by pixel only where the row is known to widen the box.
        const auto left_end = static_cast<std::size_t>(x0);
        if (left_end > from && count_nonzero(row + from, left_end - from) > 0) {
            x0 = static_cast<std::int64_t>(from);
            while (row[x0] == 0) {
                ++x0;
            }
        }
        const auto right_begin = static_cast<std::size_t>(x1 + 1);
        if (right_begin < to && count_nonzero(row + right_begin, to - right_begin) > 0) {
            x1 = static_cast<std::int64_t>(to) - 1;
            while (row[x1] == 0) {
                --x1;
            }
        }
    }

    void write(std::int64_t* box) const {
        box[0] = x0;
        box[1] = y0;
        box[2] = x1;
        box[3] = y1;
    }
};

// (H, W) bool -> xyxy int64 (4,), -1 where the mask is empty, and the area
inline std::pair<Array<std::int64_t>, std::int64_t> mask_box(const Array<bool>& mask) {
    check_shape(mask, "mask", 2, 2);
    Array<std::int64_t> box(4);
    const auto rows = static_cast<std::size_t>(mask.shape(0));
    const auto columns = static_cast<std::size_t>(mask.shape(1));
    const auto* in = reinterpret_cast<const std::uint8_t*>(mask.data());
    std::int64_t* out = box.mutable_data();
    BoxTracker tracker;
    {
        // Safe: `in` is memory of `mask`, `out` of `box`; no Python object is touched.
        py::gil_scoped_release release;
        for (std::size_t y = 0; y < rows; ++y) {
            tracker.add_row(in + y * columns, 0, columns, y);
        }
        tracker.write(out);
    }
    return {box, tracker.area};
}

}  // namespace lite_infer
