#include "engine/models/input_staging.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

constexpr int64_t kAlignment = 64;
// A decode step of some hundred sequences fits.
constexpr int64_t kFirstPieceBytes = int64_t{1} << 18;

}  // namespace

void InputStaging::Begin() {
  status_ = absl::OkStatus();
  if (pieces_.size() > 1) {
    int64_t bytes = 0;
    for (const Piece& piece : pieces_) bytes += piece.bytes;
    pieces_.clear();
    AddPiece(bytes);
  }
  for (Piece& piece : pieces_) piece.used = 0;
}

void InputStaging::AddPiece(int64_t bytes) {
  Piece& piece = pieces_.emplace_back();
  piece.bytes = bytes;
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer =
      kernels_.Allocate(bytes);
  if (buffer.ok()) {
    piece.device = *std::move(buffer);
  } else {
    status_ =
        absl::Status(buffer.status().code(),
                     absl::StrCat("step inputs: ", buffer.status().message()));
  }
  if (piece.device != nullptr && kernels_.memory_is_host()) {
    piece.host = static_cast<uint8_t*>(piece.device->data());
  } else {
    piece.copy.resize(bytes);
    piece.host = piece.copy.data();
  }
}

InputStaging::Place InputStaging::TakeBytes(int64_t bytes) {
  const int64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (pieces_.empty() || pieces_.back().used + rounded > pieces_.back().bytes) {
    const int64_t last = pieces_.empty() ? 0 : pieces_.back().bytes;
    AddPiece(std::max({rounded, 2 * last, kFirstPieceBytes}));
  }
  Piece& piece = pieces_.back();
  const int64_t offset = piece.used;
  piece.used += rounded;
  auto* device = piece.device == nullptr
                     ? nullptr
                     : static_cast<uint8_t*>(piece.device->data());
  return {piece.host + offset, device == nullptr ? nullptr : device + offset};
}

absl::Status InputStaging::Upload() {
  if (!status_.ok() || kernels_.memory_is_host()) return status_;
  for (const Piece& piece : pieces_) {
    if (piece.used == 0) continue;
    kernels_.Upload(piece.host, piece.used, piece.device->data());
  }
  return absl::OkStatus();
}

}  // namespace shoal
