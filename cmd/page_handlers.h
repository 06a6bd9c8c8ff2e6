// SPDX-License-Identifier: Apache-2.0
// The handlers of the status page (docs/status-page.md) for the daemon's HTTP listener: "/" lists
// mounts, images and layers, "/mount?directory=DIR" shows a mount. Read-only.
//
// A page names files and directories, and a browser asks for it from wherever some web site makes a
// host name lead (DNS rebinding); so requests are answered only if their Host header is an IP
// address or localhost, which no web site's name is.
#pragma once

#include <functional>
#include <string_view>

#include "cmd/http_listener.h"
#include "cmd/space_calls.h"

namespace imagefs {

// `about` fills version, root and warnings. All must outlive the handlers.
void AddPageHandlers(const SpaceCalls& calls, std::function<void(control::v1::StatusReply*)> about,
                     HttpListener::Handlers& handlers);

// Whether a Host header ("127.0.0.1:9180", "[::1]", "localhost") names this machine by an address
// or as localhost.
bool IsLocalHostHeader(std::string_view host);

}  // namespace imagefs
