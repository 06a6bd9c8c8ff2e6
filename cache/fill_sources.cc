// SPDX-License-Identifier: Apache-2.0
#include "cache/fill_sources.h"

#include <algorithm>
#include <utility>

#include "cache/fill_shares.h"

namespace imagefs {

void FillSources::Add(std::shared_ptr<ImageSource> source) {
  std::erase_if(sources_,
                [&](const auto& other) { return other->auth_scope() == source->auth_scope(); });
  sources_.push_back(std::move(source));
}

SourceHealth::Place FillSources::PlaceOf(const ImageSource& source) const {
  return {SourceKey(source), blob_};
}

FillSources::Choice FillSources::Next(Priority priority, Moment now,
                                      const ImageSource* silent) const {
  Choice best;
  for (auto it = sources_.rbegin(); it != sources_.rend(); ++it) {
    const Moment when = std::max(now, health_.MayBegin(PlaceOf(**it), priority));
    const bool better = when < best.when || (when == best.when && best.source.get() == silent);
    if (best.source == nullptr || better) best = {*it, when};
    if (when == now && it->get() != silent) break;
  }
  return best;
}

void FillSources::PutLast(const ImageSource& source) {
  const auto it = std::find_if(sources_.begin(), sources_.end(),
                               [&](const auto& one) { return one.get() == &source; });
  if (it != sources_.end()) std::rotate(sources_.begin(), it, it + 1);
}

std::optional<absl::Status> FillSources::Certain() const {
  std::optional<absl::Status> why;
  for (const auto& source : sources_) {
    std::optional<absl::Status> one = health_.Certain(PlaceOf(*source));
    if (!one.has_value()) return std::nullopt;
    why = std::move(one);  // of the one that is asked first
  }
  return why;
}

std::string FillSources::Trouble(Moment now) const {
  return empty() ? "" : health_.Describe(PlaceOf(*first()), now);
}

std::vector<std::string> FillSources::AuthScopes() const {
  std::vector<std::string> auth_scopes;
  for (const auto& source : sources_) auth_scopes.push_back(source->auth_scope());
  return auth_scopes;
}

}  // namespace imagefs
