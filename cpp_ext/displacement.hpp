// displacement: how far what a mask covers has moved from one image to the next (Lucas and Kanade 1981, translation only,
// with Huber's weights against what moves otherwise). Coarse to fine by smoothing; the images are small.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "checks.hpp"
#include "targets.hpp"

namespace lite_infer {

namespace motion {

constexpr std::ptrdiff_t kAround = 2;        // pixels around the mask that count as well: there its edges are
constexpr int kSteps = 4;                    // of Gauss and Newton, at each smoothness
constexpr double kEnough = 0.03;             // pixels; a smaller step is the last one
constexpr double kNoise = 1.0;               // squared slope, in grey levels, that says nothing
constexpr float kTuning = 1.345F * 1.4826F;  // Huber's constant times what makes a median of residuals a deviation

struct Plane {
    std::ptrdiff_t rows, columns;
    std::vector<float> values;

    Plane(std::ptrdiff_t r, std::ptrdiff_t c) : rows(r), columns(c), values(static_cast<std::size_t>(r * c)) {}
    float* row(std::ptrdiff_t y) { return values.data() + y * columns; }
    const float* row(std::ptrdiff_t y) const { return values.data() + y * columns; }
};

inline std::ptrdiff_t clamped(std::ptrdiff_t place, std::ptrdiff_t side) {
    return std::min(std::max(place, std::ptrdiff_t{0}), side - 1);
}

// One pass of 1 4 6 4 1 over rows and columns, a blur of one pixel's deviation; borders are repeated.
LITE_INFER_MULTIVERSION static void blur(Plane& image, Plane& work) {
    for (std::ptrdiff_t y = 0; y < image.rows; ++y) {
        const float* r[5];
        for (std::ptrdiff_t k = 0; k < 5; ++k) {
            r[k] = image.row(clamped(y + k - 2, image.rows));
        }
        float* out = work.row(y);
        for (std::ptrdiff_t x = 0; x < image.columns; ++x) {
            out[x] = ((r[0][x] + r[4][x]) + 4.0F * (r[1][x] + r[3][x]) + 6.0F * r[2][x]) * 0.0625F;
        }
    }
    for (std::ptrdiff_t y = 0; y < image.rows; ++y) {
        const float* in = work.row(y);
        float* out = image.row(y);
        const auto blurred = [&](std::ptrdiff_t x, std::ptrdiff_t a, std::ptrdiff_t b, std::ptrdiff_t c,
                                 std::ptrdiff_t d) {
            return ((in[a] + in[d]) + 4.0F * (in[b] + in[c]) + 6.0F * in[x]) * 0.0625F;
        };
        const std::ptrdiff_t side = image.columns;
        const auto at_border = [&](std::ptrdiff_t x) {
            return blurred(x, clamped(x - 2, side), clamped(x - 1, side), clamped(x + 1, side), clamped(x + 2, side));
        };
        for (std::ptrdiff_t x = 2; x < side - 2; ++x) {
            out[x] = blurred(x, x - 2, x - 1, x + 1, x + 2);
        }
        for (std::ptrdiff_t x = 0; x < std::min(side, std::ptrdiff_t{2}); ++x) {
            out[x] = at_border(x);
            out[side - 1 - x] = at_border(side - 1 - x);
        }
    }
}

// Grey level and slopes at a place between pixels; beyond the border, those of the border.
struct Sample {
    double value, slope_x, slope_y;
};

inline Sample sample(const Plane& image, double x, double y) {
    const auto at = [](double place, std::ptrdiff_t side) {
        return std::min(std::max(place, 0.0), static_cast<double>(side - 1));
    };
    x = at(x, image.columns);
    y = at(y, image.rows);
    const auto x1 = static_cast<std::ptrdiff_t>(x);
    const auto y1 = static_cast<std::ptrdiff_t>(y);
    const double fx = x - static_cast<double>(x1);
    const double fy = y - static_cast<double>(y1);
    std::array<std::array<double, 4>, 4> near;  // the pixel's four neighbours, and theirs for the slopes
    for (std::ptrdiff_t j = 0; j < 4; ++j) {
        const float* row = image.row(clamped(y1 + j - 1, image.rows));
        for (std::ptrdiff_t i = 0; i < 4; ++i) {
            near[static_cast<std::size_t>(j)][static_cast<std::size_t>(i)] =
                static_cast<double>(row[clamped(x1 + i - 1, image.columns)]);
        }
    }
    const auto between = [&](double a, double b, double c, double d) {
        const double top = a + (b - a) * fx;
        const double bottom = c + (d - c) * fx;
        return top + (bottom - top) * fy;
    };
    const auto across = [&](std::size_t j, std::size_t i) { return (near[j][i + 1] - near[j][i - 1]) * 0.5; };
    const auto down = [&](std::size_t j, std::size_t i) { return (near[j + 1][i] - near[j - 1][i]) * 0.5; };
    return {between(near[1][1], near[1][2], near[2][1], near[2][2]),
            between(across(1, 1), across(1, 2), across(2, 1), across(2, 2)),
            between(down(1, 1), down(1, 2), down(2, 1), down(2, 2))};
}

struct Place {
    std::ptrdiff_t x, y;
};

// Pixels of the mask and those around it.
inline std::vector<Place> covered(const bool* mask, std::ptrdiff_t rows, std::ptrdiff_t columns) {
    std::vector<std::uint8_t> near(static_cast<std::size_t>(rows * columns), 0);
    for (std::ptrdiff_t y = 0; y < rows; ++y) {
        for (std::ptrdiff_t x = 0; x < columns; ++x) {
            if (!mask[y * columns + x]) {
                continue;
            }
            for (std::ptrdiff_t v = std::max(y - kAround, std::ptrdiff_t{0}); v <= std::min(y + kAround, rows - 1); ++v) {
                for (std::ptrdiff_t u = std::max(x - kAround, std::ptrdiff_t{0}); u <= std::min(x + kAround, columns - 1);
                     ++u) {
                    near[static_cast<std::size_t>(v * columns + u)] = 1;
                }
            }
        }
    }
    std::vector<Place> places;
    for (std::ptrdiff_t y = 0; y < rows; ++y) {
        for (std::ptrdiff_t x = 0; x < columns; ++x) {
            if (near[static_cast<std::size_t>(y * columns + x)] != 0) {
                places.push_back({x, y});
            }
        }
    }
    return places;
}

// Gauss-Newton from (dx, dy) on.
inline void refine(const Plane& before, const Plane& now, const std::vector<Place>& places, double& dx, double& dy) {
    const double farthest_x = static_cast<double>(now.columns) / 4;
    const double farthest_y = static_cast<double>(now.rows) / 4;
    std::vector<Sample> found(places.size());
    std::vector<double> missing(places.size());
    std::vector<float> sizes(places.size());
    for (int step = 0; step < kSteps; ++step) {
        for (std::size_t i = 0; i < places.size(); ++i) {
            const Place at = places[i];
            found[i] = sample(now, static_cast<double>(at.x) + dx, static_cast<double>(at.y) + dy);
            missing[i] = static_cast<double>(before.row(at.y)[at.x]) - found[i].value;
            sizes[i] = static_cast<float>(std::fabs(missing[i]));
        }
        const auto middle = sizes.begin() + static_cast<std::ptrdiff_t>(sizes.size() / 2);
        std::nth_element(sizes.begin(), middle, sizes.end());
        const double limit = static_cast<double>(kTuning * *middle + 1.0F);
        double xx = 0, xy = 0, yy = 0, x = 0, y = 0;
        for (std::size_t i = 0; i < places.size(); ++i) {
            const double size = std::fabs(missing[i]);
            const double weight = size > limit ? limit / size : 1.0;
            const Sample& at = found[i];
            xx += weight * at.slope_x * at.slope_x;
            xy += weight * at.slope_x * at.slope_y;
            yy += weight * at.slope_y * at.slope_y;
            x += weight * at.slope_x * missing[i];
            y += weight * at.slope_y * missing[i];
        }
        const double steadier = 1e-3 * (xx + yy) + kNoise * static_cast<double>(places.size());
        xx += steadier;
        yy += steadier;
        const double determinant = xx * yy - xy * xy;  // positive: the matrix is, by what was just added
        const double step_x = (yy * x - xy * y) / determinant;
        const double step_y = (xx * y - xy * x) / determinant;
        dx = std::min(std::max(dx + step_x, -farthest_x), farthest_x);
        dy = std::min(std::max(dy + step_y, -farthest_y), farthest_y);
        if (std::max(std::fabs(step_x), std::fabs(step_y)) < kEnough) {
            return;
        }
    }
}

}  // namespace motion

// (H, W) uint8 twice and (H, W) bool -> (dx, dy) in pixels, at most a quarter of a side; (0, 0) for an empty mask
inline std::pair<double, double> displacement(const Array<std::uint8_t>& before, const Array<std::uint8_t>& now,
                                          const Array<bool>& mask) {
    check_shape(before, "before", 2, 2);
    check_shape(now, "now", 2, 2);
    check_shape(mask, "mask", 2, 2);
    for (py::ssize_t axis = 0; axis < 2; ++axis) {
        if (now.shape(axis) != before.shape(axis) || mask.shape(axis) != before.shape(axis)) {
            throw py::value_error("now: shape " + shape_text(now) + ", mask: shape " + shape_text(mask) +
                                  ", wanted that of before, " + shape_text(before));
        }
    }
    const auto rows = static_cast<std::ptrdiff_t>(before.shape(0));
    const auto columns = static_cast<std::ptrdiff_t>(before.shape(1));
    const std::uint8_t* from = before.data();
    const std::uint8_t* to = now.data();
    const bool* covered = mask.data();
    double dx = 0, dy = 0;
    {
        // Safe: the pointers are memory of the arguments; no Python object is touched.
        py::gil_scoped_release release;
        const std::vector<motion::Place> places = motion::covered(covered, rows, columns);
        if (!places.empty()) {
            motion::Plane fine_before(rows, columns), fine_now(rows, columns), work(rows, columns);
            std::copy(from, from + rows * columns, fine_before.values.begin());
            std::copy(to, to + rows * columns, fine_now.values.begin());
            motion::blur(fine_before, work);
            motion::blur(fine_now, work);
            motion::Plane coarse_before = fine_before, coarse_now = fine_now;
            for (int pass = 0; pass < 3; ++pass) {  // variances add up: two pixels' deviation
                motion::blur(coarse_before, work);
                motion::blur(coarse_now, work);
            }
            motion::refine(coarse_before, coarse_now, places, dx, dy);
            motion::refine(fine_before, fine_now, places, dx, dy);
        }
    }
    return {dx, dy};
}

}  // namespace lite_infer
