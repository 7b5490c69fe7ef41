#include "kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

namespace shoal::cuda {
namespace {

constexpr int64_t kBufferBytes = 8 << 20;
constexpr int64_t kAlignment = 64;

}  // namespace

Staging::~Staging() {
  cudaStreamSynchronize(context_.stream());
  for (Buffer* buffer : {&uploads_[0], &uploads_[1], &download_}) {
    if (buffer->data == nullptr) continue;
    cudaFreeHost(buffer->data);
    cudaEventDestroy(buffer->copied);
  }
  for (const auto& fetched : fetched_) {
    if (fetched->data != nullptr) cudaFreeHost(fetched->data);
    if (fetched->copied != nullptr) cudaEventDestroy(fetched->copied);
  }
}

bool Staging::Prepare(Buffer& buffer) {
  if (context_.error() != cudaSuccess) return false;
  if (buffer.data != nullptr) return true;
  void* data = nullptr;
  if (!context_.Check(cudaMallocHost(&data, kBufferBytes))) return false;
  buffer.data = static_cast<uint8_t*>(data);
  return context_.Check(
      cudaEventCreateWithFlags(&buffer.copied, cudaEventDisableTiming));
}

// Goes on with the other buffer, once it is free.
void Staging::Turn() {
  context_.Check(cudaEventRecord(uploads_[current_].copied, context_.stream()));
  current_ = 1 - current_;
  Buffer& next = uploads_[current_];
  if (next.used > 0) context_.Check(cudaEventSynchronize(next.copied));
  next.used = 0;
}

void Staging::Upload(const void* host, int64_t bytes, void* device) {
  const auto* from = static_cast<const uint8_t*>(host);
  auto* to = static_cast<uint8_t*>(device);
  while (bytes > 0) {
    if (kBufferBytes - uploads_[current_].used <
        std::min(bytes, kBufferBytes)) {
      Turn();
    }
    Buffer& buffer = uploads_[current_];
    if (!Prepare(buffer)) return;
    const int64_t piece = std::min(bytes, kBufferBytes - buffer.used);
    uint8_t* pinned = buffer.data + buffer.used;
    std::memcpy(pinned, from, piece);
    if (!context_.Check(cudaMemcpyAsync(
            to, pinned, piece, cudaMemcpyHostToDevice, context_.stream()))) {
      return;
    }
    buffer.used =
        std::min(kBufferBytes, buffer.used + (piece + kAlignment - 1) /
                                                 kAlignment * kAlignment);
    from += piece;
    to += piece;
    bytes -= piece;
  }
}

bool Staging::Download(const void* device, int64_t bytes, void* host) {
  const auto* from = static_cast<const uint8_t*>(device);
  auto* to = static_cast<uint8_t*>(host);
  while (bytes > 0) {
    if (!Prepare(download_)) return false;
    const int64_t piece = std::min(bytes, kBufferBytes);
    if (!context_.Check(cudaMemcpyAsync(download_.data, from, piece,
                                        cudaMemcpyDeviceToHost,
                                        context_.stream())) ||
        !context_.Check(cudaStreamSynchronize(context_.stream()))) {
      return false;
    }
    std::memcpy(to, download_.data, piece);
    from += piece;
    to += piece;
    bytes -= piece;
  }
  return context_.error() == cudaSuccess;
}

Staging::Fetched& Staging::FreeFetched() {
  for (const auto& fetched : fetched_) {
    if (!fetched->in_use) return *fetched;
  }
  return *fetched_.emplace_back(std::make_unique<Fetched>());
}

Staging::Fetched* Staging::Fetch(const void* device, int64_t bytes) {
  if (context_.error() != cudaSuccess) return nullptr;
  Fetched& fetched = FreeFetched();
  if (fetched.copied == nullptr &&
      !context_.Check(
          cudaEventCreateWithFlags(&fetched.copied, cudaEventDisableTiming))) {
    return nullptr;
  }
  if (fetched.bytes < bytes) {
    if (fetched.data != nullptr) cudaFreeHost(fetched.data);
    fetched.data = nullptr;
    fetched.bytes = 0;
    void* data = nullptr;
    if (!context_.Check(cudaMallocHost(&data, bytes))) return nullptr;
    fetched.data = static_cast<uint8_t*>(data);
    fetched.bytes = bytes;
  }
  fetched.in_use = true;
  context_.Check(cudaMemcpyAsync(fetched.data, device, bytes,
                                 cudaMemcpyDeviceToHost, context_.stream()));
  context_.Check(cudaEventRecord(fetched.copied, context_.stream()));
  return &fetched;
}

bool Staging::Await(const Fetched& fetched) {
  return context_.error() == cudaSuccess &&
         context_.Check(cudaEventSynchronize(fetched.copied));
}

}  // namespace shoal::cuda
