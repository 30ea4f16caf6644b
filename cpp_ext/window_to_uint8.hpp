// window_to_uint8: intensities -> grey levels 0..255 between a lower and an upper bound, elementwise.
// Knows the arithmetic of the window only; rows, channels and resizing live elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "checks.hpp"
#include "targets.hpp"

namespace lite_infer {

// All zero where `upper` does not exceed `lower`.
struct Window {
    double lower;
    double upper;
    bool zero_stays_zero;
};

inline void check_window(const Window& window) {
    check_finite(window.lower, "lower");
    check_finite(window.upper, "upper");
    check_finite(window.upper - window.lower, "upper - lower");
}

// Every operation is a float64 one in the order of the formula, so the result is that of numpy in float64.
template <typename T, bool ZeroStaysZero>
LITE_INFER_INLINE void window_loop(const T* in, std::uint8_t* out, std::size_t count, double lower, double upper) {
    const double width = upper - lower;
    for (std::size_t i = 0; i < count; ++i) {
        const double value = static_cast<double>(in[i]);
        const double floored = value > lower ? value : lower;  // NaN fails the comparison: lower, hence 0
        const double clipped = floored < upper ? floored : upper;
        const auto level = static_cast<std::int32_t>((clipped - lower) / width * 255.0);
        out[i] = static_cast<std::uint8_t>(ZeroStaysZero && value == 0.0 ? 0 : level);
    }
}

// One plain function per dtype: multiversioning does not apply to templates.
#define LITE_INFER_WINDOW_RUN(T)                                                                                      \
    LITE_INFER_MULTIVERSION static void window_run(const T* in, std::uint8_t* out, std::size_t count, double lower,   \
                                                   double upper, bool zero_stays_zero) {                              \
        if (zero_stays_zero) {                                                                                        \
            window_loop<T, true>(in, out, count, lower, upper);                                                       \
        } else {                                                                                                      \
            window_loop<T, false>(in, out, count, lower, upper);                                                      \
        }                                                                                                             \
    }
LITE_INFER_WINDOW_RUN(std::uint8_t)
LITE_INFER_WINDOW_RUN(std::int8_t)
LITE_INFER_WINDOW_RUN(std::uint16_t)
LITE_INFER_WINDOW_RUN(std::int16_t)
LITE_INFER_WINDOW_RUN(std::uint32_t)
LITE_INFER_WINDOW_RUN(std::int32_t)
LITE_INFER_WINDOW_RUN(float)
LITE_INFER_WINDOW_RUN(double)
#undef LITE_INFER_WINDOW_RUN

// A window made ready for `expected_count` values: 8- and 16-bit integers get a table of all their values where that is
// less work than the divisions. Table and arithmetic agree, because the table is filled by the arithmetic.
template <typename T>
class WindowConverter {
public:
    WindowConverter(const Window& window, std::size_t expected_count) : window_(window) {
        if constexpr (std::is_integral<T>::value && sizeof(T) <= 2) {
            if (window.upper > window.lower) {
                fill_table(expected_count);
            }
        }
    }

    void run(const T* in, std::uint8_t* out, std::size_t count) const {
        if (count == 0) {
            return;
        }
        if (!(window_.upper > window_.lower)) {
            std::memset(out, 0, count);
        } else if constexpr (std::is_integral<T>::value && sizeof(T) <= 2) {
            if (table_.empty()) {
                window_run(in, out, count, window_.lower, window_.upper, window_.zero_stays_zero);
                return;
            }
            const std::uint8_t* table = table_.data();
            for (std::size_t i = 0; i < count; ++i) {
                out[i] = table[static_cast<Unsigned>(in[i])];
            }
        } else {
            window_run(in, out, count, window_.lower, window_.upper, window_.zero_stays_zero);
        }
    }

private:
    // Indexed by the bit pattern, so a negative value needs no offset. (For types without a table: any type.)
    using Unsigned = typename std::conditional<sizeof(T) == 1, std::uint8_t, std::uint16_t>::type;

    void fill_table(std::size_t expected_count) {
        constexpr std::int32_t smallest = std::numeric_limits<T>::min();
        constexpr std::int32_t largest = std::numeric_limits<T>::max();
        // Below `from` every value is clipped to lower, above `to` to upper.
        const auto from = static_cast<std::int32_t>(std::fmin(std::fmax(std::floor(window_.lower), smallest), largest));
        const auto to = static_cast<std::int32_t>(std::fmin(std::fmax(std::ceil(window_.upper), smallest), largest));
        const auto inside = static_cast<std::size_t>(to - from) + 1;
        constexpr std::size_t kFillCost = 2048;  // clearing 64 KiB costs about as much as converting this many values
        if (inside + kFillCost > expected_count) {
            return;
        }
        std::vector<T> values(inside);
        for (std::size_t i = 0; i < inside; ++i) {
            values[i] = static_cast<T>(from + static_cast<std::int32_t>(i));
        }
        std::vector<std::uint8_t> levels(inside);
        window_run(values.data(), levels.data(), inside, window_.lower, window_.upper, false);
        table_.assign(static_cast<std::size_t>(largest - smallest) + 1, levels.front());
        for (std::int32_t value = to + 1; value <= largest; ++value) {
            table_[static_cast<Unsigned>(value)] = levels.back();
        }
        for (std::size_t i = 0; i < inside; ++i) {
            table_[static_cast<Unsigned>(values[i])] = levels[i];
        }
        if (window_.zero_stays_zero) {
            table_[0] = 0;
        }
    }

    Window window_;
    std::vector<std::uint8_t> table_;
};

template <typename T>
Array<std::uint8_t> window_to_uint8(const Array<T>& image, double lower, double upper, bool zero_stays_zero) {
    const Window window{lower, upper, zero_stays_zero};
    check_window(window);
    check_aligned(image, "image");
    Array<std::uint8_t> levels(std::vector<py::ssize_t>(image.shape(), image.shape() + image.ndim()));
    const auto count = static_cast<std::size_t>(image.size());
    const T* in = image.data();
    std::uint8_t* out = levels.mutable_data();
    {
        // Safe: `in` and `out` are kept alive by the caller's reference and by `levels`; no Python object is touched.
        py::gil_scoped_release release;
        WindowConverter<T>(window, count).run(in, out, count);
    }
    return levels;
}

}  // namespace lite_infer
