// The chat page's files, put into the binary by embed_files.cmake.
#pragma once

#include <span>
#include <string_view>

namespace shoal {

struct PageFile {
  std::string_view name;  // "index.html"
  std::string_view content;
};

std::span<const PageFile> PageFiles();

}  // namespace shoal
