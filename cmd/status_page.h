// SPDX-License-Identifier: Apache-2.0
// The status page (docs/status-page.md) as HTML: pure functions of the daemon's replies. A page is
// self-contained: it requests nothing, and its policy lets it run only its own script.
//
// Every name in the data may be hostile (names of files are those of the image): text is escaped
// for HTML, the JSON for a script element, and the script writes text nodes only.
#pragma once

#include <string>
#include <string_view>

namespace imagefs {

namespace control::v1 {
class ListImagesReply;
class ListMountsReply;
class MountStatusReply;
class StatusReply;
}  // namespace control::v1

// All mounts, images and layers; of `status` the version, the root and the layers. Links to the
// pages of the mounts: "mount?directory=...".
std::string OverviewPage(const control::v1::StatusReply& status,
                         const control::v1::ListMountsReply& mounts,
                         const control::v1::ListImagesReply& images);

// One mount. The element `data` holds the reply as MountStatusJson writes it. `served`: by the
// daemon, so with a link to the overview; otherwise a file.
std::string MountPage(const control::v1::MountStatusReply& reply, bool served);

// The Content-Security-Policy of both pages, as an HTTP header. Pages have the same as an element,
// as far as elements can.
std::string PagePolicy();

// The text as HTML text or as the value of a quoted attribute.
std::string EscapeHtml(std::string_view text);
// A JSON text such that no HTML parser sees the end of a script element or a comment in it.
std::string EscapeJsonForHtml(std::string_view json);

}  // namespace imagefs
