// SPDX-License-Identifier: Apache-2.0
// Whom to trust at a TLS connection, and how to identify to the other side.
#pragma once

#include <string>
#include <vector>

#include "base/secret.h"

namespace imagefs {

// The contents of files, so that the network thread reads none.
struct TlsSettings {
  bool verify = true;
  std::string ca_pem;  // trusted in addition to the system's CAs; "" = none
  struct Client {
    std::string certificate_pem;  // may be a chain
    Secret key_pem;               // "" = in certificate_pem
    bool operator==(const Client&) const = default;
  };
  std::vector<Client> clients;  // certificates to identify with, in order of preference
  bool operator==(const TlsSettings&) const = default;
};

}  // namespace imagefs
