// The votes of a committee, as in `nanogrove/evaluate/committee.py`: the likeliest text of each voter, counted.

// Yields {voter} as voters write; returns [{text, count}], the most frequent text first, and of equal ones the first
// voter's. A voter whose scores are not finite has no vote.
function* voting(voters, tokens, prompt, count) {
  const votes = new Map();
  for (const [voter, net] of voters.entries()) {
    let text = "";
    try {
      for (const step of writing(net, tokens, prompt, { count, seed: 0, temperature: 0 })) {
        text += step.text || "";
        yield { voter };
      }
    } catch {
      continue;
    }
    votes.set(text, (votes.get(text) || 0) + 1);
  }
  return Array.from(votes, ([text, count]) => ({ text, count })).sort((a, b) => b.count - a.count);
}
