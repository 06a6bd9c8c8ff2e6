// SPDX-License-Identifier: Apache-2.0
// The options of the verbs that read files of an image without a mount. See cmd/verb_args.h.
#pragma once

#include <string>
#include <vector>

#include "cmd/image_options.h"

namespace imagefs {

struct CatArgs {
  std::string reference;
  std::vector<std::string> paths;  // in the image, like all below
  ImageOptions image;
  bool eager = false, quiet = false;
};

struct CopyArgs {
  std::string source;       // IMAGE:/PATH
  std::string destination;  // "-" = a tar on stdout
  ImageOptions image;
  bool follow = false;
  bool eager = false, quiet = false;
};

struct ListFilesArgs {
  std::string reference;
  std::string path = "/";
  ImageOptions image;
  bool long_format = false, null = false, layer = false;
  int depth = -1;  // -1 = all
  bool eager = false, quiet = false;
};

struct ExportTreeArgs {
  std::string reference;
  ImageOptions image;
  bool quiet = false;
};

struct DiffArgs {
  std::string before, after;
  ImageOptions image;
  bool times = false;
  bool exit_code = false;
  bool eager = false, quiet = false;
};

}  // namespace imagefs
