// SPDX-License-Identifier: Apache-2.0
// How a verb resolves the images it names, as options of the command.
#pragma once

#include <string>

#include "base/secret.h"

namespace imagefs {

struct ImageOptions {
  std::string platform;  // "" = this machine's
  std::string pull = "missing";
  bool plain_http = false;
  bool skip_tls_verify = false;
  std::string username;   // of --creds; "" = not given
  Secret password;        // of --creds; empty = to be asked for
  std::string auth_file;  // the only file with credentials; "" = the caller's usual ones
};

}  // namespace imagefs
