// SPDX-License-Identifier: Apache-2.0
#include "cmd/page_handlers.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/calls.h"
#include "cmd/mount_status.h"
#include "cmd/status_page.h"
#include "fetch/ip_address.h"

namespace imagefs {
namespace {

using Answer = HttpListener::Answer;
using Request = HttpListener::Request;

constexpr char kPlain[] = "text/plain; charset=utf-8";

Answer PlainAnswer(int status, std::string_view text) {
  return {status, kPlain, StrCat(text, "\n")};
}

Answer Page(std::string html) {
  return {200,
          "text/html; charset=utf-8",
          std::move(html),
          {{"Content-Security-Policy", PagePolicy()},
           {"Referrer-Policy", "no-referrer"},
           {"Cross-Origin-Resource-Policy", "same-origin"}}};
}

Answer Failed(const absl::Status& status) {
  return PlainAnswer(absl::IsNotFound(status) ? 404 : 500,
                     PrintableName(std::string_view(ToStd(status.message())), 1000));
}

Answer Overview(const SpaceCalls& calls,
                const std::function<void(control::v1::StatusReply*)>& about) {
  control::v1::StatusReply status;
  control::v1::ListMountsReply mounts;
  control::v1::ListImagesReply images;
  about(&status);
  FillLayers(calls.store, &status);
  for (const MountState& state : calls.mounts.List()) FillState(state, mounts.add_mounts());
  if (absl::Status listed = calls.ListImages(/*all=*/true, &images); !listed.ok()) {
    return Failed(listed);
  }
  return Page(OverviewPage(status, mounts, images));
}

Answer OneMount(const SpaceCalls& calls, const Request& request) {
  const auto directory = request.arguments.find("directory");
  if (directory == request.arguments.end()) return PlainAnswer(400, "name a ?directory=");
  control::v1::MountStatusReply reply;
  const auto name_space = request.arguments.find("namespace");
  const bool elsewhere = name_space != request.arguments.end();
  // The overview links to mounts as they are listed.
  const absl::Status status =
      FillMountStatus(calls.store, calls.mounts, directory->second,
                      elsewhere ? ParseDecimal(name_space->second).value_or(0) : 0,
                      /*picture=*/true, &reply);
  return status.ok() ? Page(MountPage(reply, /*served=*/true)) : Failed(status);
}

}  // namespace

bool IsLocalHostHeader(std::string_view host) {
  if (host.starts_with('[')) {
    const size_t end = host.find(']');
    if (end == std::string_view::npos) return false;
    const std::string_view rest = host.substr(end + 1);
    return (rest.empty() || rest.starts_with(':')) &&
           IpAddress::Parse(host.substr(1, end - 1)).has_value();
  }
  host = host.substr(0, host.find(':'));
  return absl::EqualsIgnoreCase(ToAbsl(host), "localhost") || IpAddress::Parse(host).has_value();
}

void AddPageHandlers(const SpaceCalls& calls, std::function<void(control::v1::StatusReply*)> about,
                     HttpListener::Handlers& handlers) {
  const auto checked = [](auto answer) {
    return [answer = std::move(answer)](const Request& request) -> Answer {
      if (IsLocalHostHeader(request.host)) return answer(request);
      return PlainAnswer(403, "ask for this page by an IP address or as localhost");
    };
  };
  handlers["/"] = checked(
      [&calls, about = std::move(about)](const Request&) { return Overview(calls, about); });
  handlers["/mount"] =
      checked([&calls](const Request& request) { return OneMount(calls, request); });
}

}  // namespace imagefs
