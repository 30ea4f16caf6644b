// Argument checks shared by the kernels. They run under the GIL, before any work, and name the argument at fault.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

namespace lite_infer {

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;
using Size = std::array<std::int64_t, 2>;  // rows, columns

// Sides above this are refused: no medical slice is near, and every index computation below stays far from overflow.
constexpr std::int64_t kMaxSide = std::int64_t{1} << 20;

inline std::string shape_text(const py::array& array) {
    std::string text = "(";
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
        text += (axis ? ", " : "") + std::to_string(array.shape(axis));
    }
    return text + (array.ndim() == 1 ? ",)" : ")");
}

inline void check_aligned(const py::array& array, const char* name) {
    const auto item = static_cast<std::uintptr_t>(array.itemsize());
    if (item != 0 && reinterpret_cast<std::uintptr_t>(array.data()) % item != 0) {
        throw py::value_error(std::string(name) + ": memory is not aligned to its item size; pass a copy");
    }
}

inline void check_side(std::int64_t side, const std::string& name) {
    if (side < 1 || side > kMaxSide) {
        throw py::value_error(name + ": " + std::to_string(side) + ", wanted 1 to " + std::to_string(kMaxSide));
    }
}

inline void check_size(const Size& size, const char* name) {
    check_side(size[0], std::string(name) + " rows");
    check_side(size[1], std::string(name) + " columns");
}

// Checks the rank and every side of a non-empty array.
inline void check_shape(const py::array& array, const char* name, py::ssize_t rank_from, py::ssize_t rank_to) {
    if (array.ndim() < rank_from || array.ndim() > rank_to) {
        const std::string wanted = std::to_string(rank_from) +
                                   (rank_to == rank_from ? "" : " or " + std::to_string(rank_to));
        throw py::value_error(std::string(name) + ": " + std::to_string(array.ndim()) + " dimensions, wanted " + wanted);
    }
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
        if (array.shape(axis) < 1 || array.shape(axis) > kMaxSide) {
            throw py::value_error(std::string(name) + ": shape " + shape_text(array) + ", wanted sides of 1 to " +
                                  std::to_string(kMaxSide));
        }
    }
    check_aligned(array, name);
}

// (N, rows, columns); N may be 0, the maps may not be empty.
inline void check_stack(const py::array& array, const char* name) {
    if (array.ndim() != 3) {
        throw py::value_error(std::string(name) + ": " + std::to_string(array.ndim()) + " dimensions, wanted 3");
    }
    for (py::ssize_t axis = 1; axis < 3; ++axis) {
        if (array.shape(axis) < 1 || array.shape(axis) > kMaxSide) {
            throw py::value_error(std::string(name) + ": shape " + shape_text(array) + ", wanted sides of 1 to " +
                                  std::to_string(kMaxSide));
        }
    }
    check_aligned(array, name);
}

// Product of counts that are not negative, refused where the bytes of such an array could not be addressed.
inline std::size_t checked_product(std::int64_t a, std::int64_t b, std::size_t item_bytes, const char* name) {
    const auto x = static_cast<std::uint64_t>(a);
    const auto y = static_cast<std::uint64_t>(b);
    const auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max()) / item_bytes;
    if (x != 0 && y > limit / x) {
        throw py::value_error(std::string(name) + ": " + std::to_string(x) + " x " + std::to_string(y) +
                              " elements are more than memory can address");
    }
    return static_cast<std::size_t>(x * y);
}

inline void check_finite(double value, const char* name) {
    if (!std::isfinite(value)) {
        throw py::value_error(std::string(name) + ": " + std::to_string(value) + ", wanted a finite number");
    }
}

}  // namespace lite_infer
